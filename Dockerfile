# The image of one service, `--build-arg SERVICE=lineage`. It needs no BuildKit; docs/compose.md tells more.
FROM python:3.11-slim-bookworm

# HOME: libraries that keep caches find a place for them in a container whose own files cannot be written.
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_DEFAULT_TIMEOUT=120 HOME=/tmp
RUN useradd --system --uid 10001 --no-create-home --home-dir /tmp lineal \
 && install --directory --owner=lineal --group=lineal /data /data/artifacts
WORKDIR /app

# An index of packages other than pip's own comes from the environment of the build. It stays in the image's history, so
# it must hold no password.
ARG PIP_INDEX_URL

# lineage needs what every service needs and nothing else: these layers are shared by all images.
COPY requirements/lineage.txt requirements/
RUN pip install --quiet --require-hashes -r requirements/lineage.txt

ARG SERVICE
COPY requirements/${SERVICE}.txt requirements/
RUN pip install --quiet --require-hashes -r requirements/${SERVICE}.txt

COPY lineal lineal
COPY chassis chassis
COPY tabular tabular
COPY services/__init__.py services/
# Where the code of the service is; `workflows` lies elsewhere.
ARG CODE=services/${SERVICE}
COPY ${CODE} ${CODE}
RUN python -m compileall -q .

ENV CODE=${CODE} PYTHONPATH=/app
USER lineal
CMD ["sh", "-c", "exec python -m \"$(printf %s \"$CODE\" | tr / .)\""]
