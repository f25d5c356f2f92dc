# The commands that people and CI share. Each is plain cargo, or one script that says what it needs.
FUZZ = cargo +nightly fuzz
FUZZ_ARGS = --fuzz-dir tests/fuzz --target-dir target/fuzz
TARGETS = request_head response_head chunked connection
SECONDS = 600

.PHONY: fuzz fuzz-corpus
.PHONY: build test sim lint doc demo bench instructions compare swaps campaign reflex viewers examples image suites ci

build:
	cargo build --locked --release
test:
	cargo test --locked
# The acceptance simulations of the judge of canaries: minutes of CPU time. A part: make sim ARGS="s1 p8 --seed 7"
sim:
	cargo test --locked --release --features sim --test sim -- $(ARGS)
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
