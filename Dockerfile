# The page in a container, without training and tests: docker build -t audiodear . && docker run -p 7860:7860 audiodear
# pip's settings can be given, such as an index with CPU builds of torch, which are far smaller than those of PyPI:
#   docker build --build-arg PIP_EXTRA_INDEX_URL=... -t audiodear .
FROM python:3.12-slim

ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

RUN useradd --create-home page
WORKDIR /home/page

COPY pyproject.toml constraints.txt README.md LICENSE source/
COPY assets/mini source/assets/mini
COPY assets/classifier source/assets/classifier
COPY assets/eval_prompts.json assets/eval_compositions.json assets/audioset.json source/assets/
COPY dear source/dear
COPY training source/training
RUN pip install --no-cache-dir --constraint source/constraints.txt './source[ui]' && rm -r source
COPY app.py .

USER page
ENV GRADIO_SERVER_NAME=0.0.0.0 PORT=7860
EXPOSE 7860
HEALTHCHECK --start-period=60s CMD python -c "import os, urllib.request as u; u.urlopen('http://127.0.0.1:%s/health' % os.environ['PORT'], timeout=5)"
CMD ["python", "app.py"]
