# Common tasks by name: see `just --list`. Each check is a step of `.ci/run`.

# A server on 127.0.0.1:50051, over a store in target/.
serve:
    cargo run -- serve --store target/icebox.db

# The checks before a commit: formatting, lints, tests.
check:
    .ci/run formatting lints tests

# Everything that CI checks, or some of its steps: `just ci clients readme`.
ci *STEPS:
    .ci/run {{STEPS}}

# One test by its name: `just test a_walk_by_marker`.
test NAME:
    cargo test {{NAME}}

# One seed of the simulated power cuts: `just seed 43`.
seed SEED:
    ICEBOX_SEED={{SEED}} cargo test --lib store::local::simulation

# One fuzz target until it finds something: `just fuzz file`. Needs `cargo install cargo-fuzz`.
fuzz TARGET:
    mkdir -p fuzz/corpus/{{TARGET}}
    cargo fuzz run {{TARGET}} -s none fuzz/corpus/{{TARGET}} fuzz/seeds/{{TARGET}}

# 50,000 seeds, and 500 rounds of SIGKILL.
long:
    ICEBOX_LONG=1 cargo test --release

# A measurement: rpc, pages or reopen.
bench NAME:
    cargo bench --bench {{NAME}}

# All measurements, and their drawings in docs/.
figures:
    cargo bench
    python3 benches/draw.py
