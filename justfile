# What a developer types. `just` lists it.

default:
    @just --list

# An environment with everything in it, in .venv
setup:
    python3 -m venv .venv
    .venv/bin/pip install -c constraints.txt -e '.[dev]'

# The default suite, in a few minutes
test *arguments:
    pytest {{arguments}}

# All of it, the slow tests too
test-all:
    pytest -m 'not benchmark'

lint:
    ruff format --check .
    ruff check .
    pyright

format:
    ruff format .
    ruff check --fix .

# What CI does, in a clean environment
ci:
    .ci/run

# Known vulnerabilities of what is installed, by an auditor in an environment of its own; asks the
# package index, and fails for a package that it knows nothing of
audit:
    python3 -m venv .venv-audit
    .venv-audit/bin/pip install -q pip-audit
    pip freeze --exclude-editable > .venv-audit/installed.txt
    .venv-audit/bin/pip-audit --strict --disable-pip --no-deps -r .venv-audit/installed.txt

# The figures in the README; takes about half an hour
benchmark:
    python benchmarks/image_classification.py
    python benchmarks/train_throughput.py
    python benchmarks/kill_resume.py
    python benchmarks/startup.py

# constraints.txt again, from the newest versions
pin:
    uv pip compile -q --python-version 3.11 --no-emit-index-url --no-annotate --no-header --extra dev pyproject.toml -o constraints.txt
