# Commands for developers and CI: plain cargo, or a script that documents its requirements.
.PHONY: build test sim lint doc demo bench replays instructions compare swaps campaign reflex viewers \
	examples fuzz fuzz-corpus image suites ci

FUZZ = cargo +nightly fuzz
FUZZ_ARGS = --fuzz-dir tests/fuzz --target-dir target/fuzz
TARGETS = request_head response_head chunked connection
SECONDS = 600

build:
	cargo build --locked --release
test:
	cargo test --locked
# The acceptance simulations of the decision engine: minutes of CPU time.
# A selection: make sim ARGS="s1 p8 --seed 7"
sim:
	cargo test --locked --release --features sim --test sim -- $(ARGS)
# A thousand random live releases, each recorded and replayed: the decisions must be the same.
replays:
	cargo test --locked --release --lib a_thousand_recorded_releases -- --ignored
# The readers of HTTP/1.1 on invented bytes, against a model: see tests/fuzz/README.md.
fuzz:
	for target in $(TARGETS); do \
		mkdir -p target/fuzz-corpus/$$target && \
		$(FUZZ) run $(FUZZ_ARGS) $$target target/fuzz-corpus/$$target tests/fuzz-corpus/$$target -- \
			-max_total_time=$(SECONDS) -max_len=2048 -timeout=30 -dict=tests/fuzz/http1.dict || exit 1; \
	done
# Keeps the smallest inputs that still reach everything.
fuzz-corpus:
	for target in $(TARGETS); do \
		rm -rf target/fuzz-merged && mkdir -p target/fuzz-merged && \
		$(FUZZ) run $(FUZZ_ARGS) $$target target/fuzz-merged tests/fuzz-corpus/$$target target/fuzz-corpus/$$target -- \
			-merge=1 -max_len=2048 || exit 1; \
		rm -rf tests/fuzz-corpus/$$target && mv target/fuzz-merged tests/fuzz-corpus/$$target; \
	done
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
