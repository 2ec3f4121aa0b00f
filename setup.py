"""Packaging of ilf-jax. requirements.txt pins the versions that were tested; here are the bounds.

`launch/test.sh --lowest` tests the lower ones, `--newest` what the package index has now.
"""

import pathlib
import runpy

from setuptools import find_packages, setup

VERSIONS = runpy.run_path(str(pathlib.Path(__file__).with_name("ilf_jax") / "version.py"))

setup(
    name="ilf-jax",
    version=VERSIONS["__version__"],
    description="Imitation learning from language feedback in JAX",
    long_description=pathlib.Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # configs/ and launch/ stand beside the package in a clone and in it once installed; see ilf_jax.entry.shipped.
    packages=[*find_packages(include=["ilf_jax", "ilf_jax.*"]), "ilf_jax.configs", "ilf_jax.configs.sweeps",
              "ilf_jax.launch"],
    package_dir={"ilf_jax.configs": "configs", "ilf_jax.launch": "launch"},
    package_data={
        "ilf_jax.assets": ["*.txt", "*.jsonl", "*/*.json", "*/*.safetensors"],
        "ilf_jax.launch": ["*"],
        "ilf_jax.reporting": ["*.html", "*.css", "*.js"],
        "ilf_jax.review": ["pages/*"],
    },
    install_requires=[
        "absl-py>=2.1",
        "etils[epath]>=1.9",
        "filelock>=4.2",
        "flax>=0.12",
        "fsspec>=2024.6",
        "gguf>=0.17",
        "httpx2>=2.0",
        "huggingface_hub>=0.30",
        "importlib_resources>=6",  # tensorflow-datasets imports it without asking for it
        f"jax{VERSIONS['JAX_VERSIONS']}",
        "jinja2>=3.1",
        "krippendorff>=0.8",
        "markdown-it-py>=3.0",
        "matplotlib>=3.10",
        "ml-collections>=1.0",
        "msgspec>=0.19",
        "numpy>=2.0",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.12.8",
        "pyarrow>=20.0",
        "PyYAML>=6.0.1",
        "rich>=13.7",
        "rouge-score>=0.1.2",
        "safetensors>=0.5",
        "scipy>=1.14",
        "sentencepiece>=0.2",
        "starlette>=0.46",
        "tensorboardX>=2.6",
        "tensorflow-datasets>=4.9.10",
        "tokenizers>=0.21",
        "uvicorn>=0.34",
    ],
    entry_points={"console_scripts": ["ilf-jax = ilf_jax.cli:main"]},
    extras_require={
        "cuda13": [f"jax[cuda13]{VERSIONS['JAX_VERSIONS']}"],
        "tpu": [f"jax[tpu]{VERSIONS['JAX_VERSIONS']}"],
        "test": ["build>=1.2", "hypothesis>=6.100", "pytest>=8", "pytest-xdist>=3.6", "ruff>=0.9", "setuptools>=77"],
        "wandb": ["wandb>=0.31"],
        "mlflow": ["mlflow>=3.18"],
        "gcs": ["gcsfs>=2025.3"],
        "s3": ["s3fs>=2025.3"],
        "parity": ["torch==2.13.0", "transformers>=5.23"],
    },
)
