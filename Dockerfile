# The service, and every other verb, on a CPU or a GPU.
#
#   docker build --tag strait .
#   docker run --publish 8000:8000 strait                                          the service
#   docker run --volume "$PWD:/work" strait generate --labels lemon --output out   any verb; files land here
#
# On a Linux PC, torch from the package index brings CUDA along: some gigabytes. For a CPU alone, give the address of an
# index with CPU builds: --build-arg TORCH_INDEX=ADDRESS.
FROM python:3.11-slim

ARG TORCH_INDEX=""
ARG EXTRAS="train,eval,app,serve,export"

COPY pyproject.toml README.md LICENSE /source/
COPY src /source/src
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.11,<2.14" \
    && pip install --no-cache-dir "torch>=2.11,<2.14" "/source[$EXTRAS]" \
    && rm -r /source \
    && useradd --create-home strait \
    && mkdir /work && chown strait /work

USER strait
WORKDIR /work
EXPOSE 8000
ENTRYPOINT ["strait"]
CMD ["serve", "--host", "0.0.0.0"]
