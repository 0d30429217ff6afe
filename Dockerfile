# The installer's image (deploy/kubernetes/daemonset.yaml), which also runs the daemon by itself.
# Build: docker build -t cri-imaged:0.1.0 .
#
# /opt/cri-imaged is self-contained: a CPython of python-build-standalone, which needs nothing of
# its system but a C library, and the project with all it depends on. It works at that path alone.
#
# By hand, privileged enough to mount, with its folders at the same paths as on the node, because
# the mounts that it hands out name them:
#
#   docker run --privileged -v /var/lib/cri-imaged:/var/lib/cri-imaged \
#     -v /run/cri-imaged:/run/cri-imaged cri-imaged:0.1.0

ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ARG PYTHON
RUN pip install --no-cache-dir --disable-pip-version-check uv
ENV UV_PYTHON_INSTALL_DIR=/opt/cri-imaged/python UV_LINK_MODE=copy
WORKDIR /src
RUN uv venv --python ${PYTHON} --managed-python /opt/cri-imaged/venv && \
    mkdir /opt/cri-imaged/bin && \
    ln -s ../venv/bin/cri-imaged /opt/cri-imaged/bin/cri-imaged
COPY pyproject.toml README.md LICENSE deploy/requirements.lock ./
COPY server server
RUN uv pip install --python /opt/cri-imaged/venv --no-cache --require-hashes \
      -r requirements.lock && \
    uv pip install --python /opt/cri-imaged/venv --no-cache --no-deps . && \
    /opt/cri-imaged/bin/cri-imaged --version | cut -d ' ' -f 2 >/opt/cri-imaged/VERSION

FROM debian:stable-slim
# A slim Debian trusts no authority: the daemon would reach no registry.
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates && \
    rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/cri-imaged /opt/cri-imaged
COPY deploy/systemd/cri-imaged.service deploy/kubernetes/install.sh /usr/share/cri-imaged/
ENV PATH=/opt/cri-imaged/bin:$PATH PYTHONUNBUFFERED=1
STOPSIGNAL SIGTERM
CMD ["cri-imaged", "serve"]
