# cmap on a CPU: docker build -t cmap . && docker run --rm -v "$PWD:/data" cmap purify images --out clean
FROM python:3.12-slim
LABEL org.opencontainers.image.title="cmap" org.opencontainers.image.licenses="Apache-2.0"
COPY . /src
RUN pip install --no-cache-dir /src && rm -rf /src && useradd --create-home --uid 10001 cmap
USER 10001
WORKDIR /data
ENTRYPOINT ["cmap"]
CMD ["--help"]
