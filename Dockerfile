# authsvc in one image: no root, no shell needed, the root file system read-only.
#
#     docker build -t authsvc .          (or podman, or buildah; docs/deploy.md)
#
# BASE must have Python 3.11 or newer with venv, and its shared library, which the transport pyvoy loads: the official
# python images have both; on Debian they are python3-venv and libpython3.11.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
# For a network with its own authority or index; unset, pip has its defaults.
ARG PIP_CERT
ARG PIP_INDEX_URL
WORKDIR /src
COPY requirements/image.lock requirements/image-build.lock ./
# The tools live in an environment of their own, so that neither pip nor a builder reaches the image.
RUN python3 -m venv /tools \
 && /tools/bin/python -m pip --disable-pip-version-check --quiet install \
      --no-deps --require-hashes -r image-build.lock \
 && python3 -m venv --without-pip /opt/authsvc \
 && /tools/bin/python -m pip --disable-pip-version-check --quiet --python /opt/authsvc/bin/python install \
      --no-deps --only-binary :all: --require-hashes -r image.lock
COPY pyproject.toml README.md LICENSE ./
COPY authsvc authsvc
# Compiled here, because nothing can be written where it runs; the bill of materials tells what is in the environment.
RUN /tools/bin/python -m pip --disable-pip-version-check --quiet wheel --no-deps --no-build-isolation --wheel-dir /dist . \
 && /tools/bin/python -m pip --disable-pip-version-check --quiet --python /opt/authsvc/bin/python install \
      --no-deps --no-index /dist/*.whl \
 && /opt/authsvc/bin/python -m compileall -q /opt/authsvc/lib \
 && /tools/bin/cyclonedx-py environment --output-reproducible --output-file /opt/authsvc/sbom.cdx.json \
      /opt/authsvc/bin/python \
 && mkdir /empty

# checkov:skip=CKV_DOCKER_7:BASE names a tag; checkov does not read its default
FROM ${BASE}
LABEL org.opencontainers.image.title="authsvc" \
      org.opencontainers.image.description="Tokens, keys, permissions and rate limits for microservices" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/authsvc /opt/authsvc
# A directory for the volume; the service makes its own inside, which nobody else can read.
COPY --from=build --chown=10001:10001 /empty /var/lib/authsvc
ENV PATH=/opt/authsvc/bin:/usr/local/bin:/usr/bin:/bin \
    AUTHSVC_DATA_DIR=/var/lib/authsvc/data \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/authsvc
VOLUME ["/var/lib/authsvc"]
EXPOSE 7070 7071 7072
# The ops port answers 503 while it starts or drains, which urlopen raises. No shell, and the standard library alone.
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
  CMD ["/opt/authsvc/bin/python", "-IS", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:7072/readyz', timeout=2)"]
# PID 1 is the service itself: it has handlers for SIGTERM from its first line on, and starts no child that it leaves.
ENTRYPOINT ["/opt/authsvc/bin/authsvc"]
CMD ["serve"]
