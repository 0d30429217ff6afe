# The daemon as a container image. Build: docker build -t cri-imaged .
#
# Run it privileged enough to mount, with its folders at the same paths as on the node, because
# the mounts that it hands out name them (deploy/kubernetes/daemonset.yaml does this):
#
#   docker run --privileged -v /var/lib/cri-imaged:/var/lib/cri-imaged \
#     -v /run/cri-imaged:/run/cri-imaged cri-imaged

ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /src
RUN python -m venv /opt/cri-imaged
COPY pyproject.toml README.md LICENSE ./
COPY server server
RUN /opt/cri-imaged/bin/pip install --no-cache-dir --disable-pip-version-check .

FROM python:${PYTHON}-slim
COPY --from=build /opt/cri-imaged /opt/cri-imaged
ENV PATH=/opt/cri-imaged/bin:$PATH PYTHONUNBUFFERED=1
VOLUME ["/var/lib/cri-imaged", "/run/cri-imaged"]
# Asks over the socket, as the kubelet does before anything else.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["cri-imaged", "fs"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["cri-imaged"]
CMD ["serve"]
