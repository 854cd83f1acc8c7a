# One image for all services of docker-compose.yml; their commands tell them apart.

FROM python:3.11-slim-bookworm AS build
RUN pip install --no-cache-dir uv==0.13.9
# The container's file system is read-only: bytecode is compiled now or never. The cache is
# another file system, to which uv cannot link.
ENV UV_CACHE_DIR=/uv-cache \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /app
# The dependencies first: a change of the code alone leaves their layer as it is.
COPY pyproject.toml ./
RUN --mount=type=cache,target=/uv-cache uv sync --no-dev --no-install-project
COPY README.md ./
COPY producer producer
COPY worker worker
RUN --mount=type=cache,target=/uv-cache uv sync --no-dev --no-editable

# The same base: the environment's python is a link to /usr/local/bin/python3.11.
FROM python:3.11-slim-bookworm
RUN useradd --no-log-init --uid 10001 --no-create-home --shell /usr/sbin/nologin astronn
COPY --from=build /app/.venv /app/.venv
# Libraries keep caches in HOME; /tmp is what a read-only container can write.
ENV PATH=/app/.venv/bin:$PATH \
    HOME=/tmp
WORKDIR /app
USER 10001:10001
CMD ["astronn-stream", "--help"]
