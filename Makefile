# The commands that people and CI share. Each is plain cargo, or one script that says what it needs.
.PHONY: build test sim lint doc demo bench instructions compare swaps campaign reflex viewers examples image suites ci

build:
	cargo build --locked --release
test:
	cargo test --locked
# The acceptance simulations of the judge of canaries: minutes of CPU time. A part: make sim ARGS="s1 p8 --seed 7"
sim:
	cargo test --locked --release --features sim --test sim -- $(ARGS)
lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	.ci/advisories Cargo.lock
doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
demo:
	cargo run --locked --release -- demo
bench:
	cargo bench --locked --bench hot_path
# The request path in instructions, which a busy machine does not change; fails where a part exceeds its limit. It takes
# valgrind, and gungraun-runner in the version of Cargo.lock: cargo install gungraun-runner --version =0.20.0 --locked
instructions:
	cargo bench --locked --bench instructions
compare: build
	loadtest/compare
swaps: build
	loadtest/swaps
# More than 100 releases, good and bad, judged by the real program: about three quarters of an hour.
campaign: build
	loadtest/campaign
reflex: build
	loadtest/reflex
# Rollbacks beside half-sent requests, viewers, scrapes and reloads of 1,000 services.
viewers: build
	loadtest/viewers
# Every command in the examples for pipelines and other controllers.
examples: build
	config/examples/try
image:
	loadtest/image
suites:
	.ci/suites
ci:
	.ci/run
