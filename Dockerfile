# The app on a CPU, with the bundled models inside:
#   docker build -t simpool_viz . && docker run --rm -p 7860:7860 simpool_viz
FROM python:3.12-slim

# PyTorch without CUDA, a fifth of the size.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    GRADIO_SERVER_NAME=0.0.0.0

RUN useradd --create-home --uid 1000 app && install -d -o app /home/app/.cache
WORKDIR /app

COPY requirements.txt ./
RUN pip install --index-url "$TORCH_INDEX" $(grep -E '^torch(vision)?[^a-z]' requirements.txt)
RUN pip install -r requirements.txt

COPY app.py README.md LICENSE NOTICE ./
COPY assets ./assets
COPY models ./models
COPY simpool_viz ./simpool_viz
# What runs below cannot write here, so the compiled files are made now.
RUN python -m compileall -q simpool_viz

USER app
EXPOSE 7860
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/healthz', timeout=4)"]
ENTRYPOINT ["python", "app.py", "--port", "7860"]
CMD ["--warm", "--device", "cpu"]
