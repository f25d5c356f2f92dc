# Commands for developers and CI: plain cargo, or a script that documents its requirements.
.PHONY: build test sim lint doc demo bench instructions compare swaps campaign reflex viewers \
	examples image suites ci

build:
	cargo build --locked --release
test:
	cargo test --locked
# The acceptance simulations of the decision engine: minutes of CPU time.
# A selection: make sim ARGS="s1 p8 --seed 7"
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
# Instruction counts of the request path, independent of the machine's load; fails above a limit.
# Requires valgrind, and gungraun-runner in the version of Cargo.lock:
#   cargo install gungraun-runner --version =0.20.0 --locked
instructions:
	cargo bench --locked --bench instructions
compare: build
	loadtest/compare
swaps: build
	loadtest/swaps
# More than 100 good and bad releases through the real program: about 45 minutes.
campaign: build
	loadtest/campaign
reflex: build
	loadtest/reflex
# Rollback times beside half-sent requests, viewers, scrapes and reloads of 1,000 services.
viewers: build
	loadtest/viewers
# Runs every command of the examples for pipelines and other controllers.
examples: build
	config/examples/try
image:
	loadtest/image
suites:
	.ci/suites
ci:
	.ci/run
