# The generic serving image: any model, no rebuild per model. `make image` builds it.
#
# Any Debian or Ubuntu with Python >= 3.11 can be the base (3.11 or 3.12 for Theano); the CUDA runtime is for GPUs.
ARG BASE_IMAGE=nvidia/cuda:12.9.1-runtime-ubuntu24.04

FROM ${BASE_IMAGE} AS base
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log


# What the project needs, in /opt/pantry. pip and the build tools stay behind, in /build.
FROM base AS dependencies
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3-venv \
        gcc libc6-dev libpython3-dev
ENV PIP_NO_CACHE_DIR=1 PYTHONWARNINGS=ignore
WORKDIR /src
COPY locks/build.txt locks/
RUN python3 -m venv /build \
    && python3 -m venv --without-pip /opt/pantry \
    && /build/bin/pip install --quiet --require-hashes --only-binary :all: --requirement locks/build.txt
# theano: Theano 1.0.5 and numpy 1.26; modern: numpy 2.
ARG STACK=theano
COPY locks/${STACK}.txt locks/
COPY image/build image/build
# The bytecode's validity does not hang on time stamps, which some builders rewrite: a read-only root cannot renew it.
RUN image/build/install "${STACK}" /opt/pantry/bin/python /build/bin/python \
    && /opt/pantry/bin/python -m compileall -qq --invalidation-mode unchecked-hash /opt/pantry/lib


# What functions of Theano commonly consist of, compiled: a pod need not wait for the compiler.
FROM dependencies AS operations
ARG STACK=theano
COPY image/build/theano_operations.py ./
COPY loader/bundle/theano_cache.py loader/bundle/theano_compat.py loader/bundle/
RUN mkdir -p /opt/pantry/share/pantry \
    && if [ "${STACK}" = theano ]; then \
        apt-get update \
        && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends g++ libpython3-dev \
        && PYTHONPATH=. /opt/pantry/bin/python theano_operations.py; \
    fi \
    && chmod -R a+rX /opt/pantry/share


# The project alone, laid out to go on top, so that a change of code makes a layer of kilobytes.
FROM dependencies AS project
COPY pyproject.toml LICENSE ./
COPY loader loader
COPY image/serving image/serving
RUN /build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /build/bin/pip --python /opt/pantry/bin/python install --quiet --no-compile --no-deps --no-index \
        --ignore-installed --prefix /project /wheels/*.whl \
    && /opt/pantry/bin/python -m compileall -q --invalidation-mode unchecked-hash -s /project -p /opt/pantry /project/lib


FROM base
ARG STACK=theano
# Theano compiles what it runs, when it runs it: it needs the compiler and Python's headers at hand.
RUN if [ "${STACK}" = theano ]; then \
        apt-get update \
        && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends g++ libpython3-dev \
        && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log; \
    fi
# /tmp is the only place that must be writable; libraries that want a home find it there.
RUN groupadd --gid 10001 pantry \
    && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin pantry \
    && mkdir -p /etc/pantry /mnt/models
ENV PATH=/opt/pantry/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=dependencies /opt/pantry /opt/pantry
COPY --from=operations /opt/pantry/share/pantry /opt/pantry/share/pantry
COPY --from=project /project /opt/pantry
USER 10001:10001
EXPOSE 8080 8081
CMD ["pantry-serve", "--models", "/etc/pantry/models.yaml", "--volume", "/mnt/models", \
    "--bind", "0.0.0.0:8080", "--admin", "0.0.0.0:8081"]

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="pantry" \
    org.opencontainers.image.description="Serves models too big to bake into an image" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
