# syntax=docker/dockerfile:1
# The gateway alone, without the embedded servers and whatever development needs. docs/deployment.md says how to run it, and how
# to pin the base by digest. tests/deploy/test_image.py runs these steps, as they stand here, without an engine.

ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore

# No pip in it: nothing can be installed into a running gateway.
RUN python -m venv --without-pip /opt/gateway

# What is installed hangs on these two files alone, so a change of the code does not install it anew.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > requirements.txt \
    && python -m pip --python /opt/gateway install --constraint constraints.txt --requirement requirements.txt \
    && python -m pip install --constraint constraints.txt setuptools

COPY README.md ./
COPY gateway gateway
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && python -m pip --python /opt/gateway install --no-deps --no-index --find-links /wheels gateway


FROM ${BASE}
LABEL org.opencontainers.image.title="gateway" \
      org.opencontainers.image.description="A metadata-driven REST gateway to PostgreSQL"

COPY --from=build /opt/gateway /opt/gateway
WORKDIR /srv/gateway
# pyproject.toml is where `gateway migrate` reads Alembic's configuration.
COPY pyproject.toml ./
COPY migrations migrations
COPY resources resources

# Nothing is written but under /tmp, so the root file system may be read-only.
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOST=0.0.0.0 \
    PORT=8000
EXPOSE 8000

# By number, so that Kubernetes can tell that it is not root.
USER 10001:10001

# Alive, not ready: whoever restarts what is unhealthy must not restart every gateway because the database is down.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=2); c.request('GET', '/health/live'); raise SystemExit(c.getresponse().status != 200)"]

# It drains: docker stop's own 10 s may be too short for that; see stop_grace_period in compose.yaml.
STOPSIGNAL SIGTERM
ENTRYPOINT ["gateway"]
CMD ["serve"]
