"""The package's metadata. Lower bounds are what the code needs; constraints.txt pins what was tested."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="vpipe",
    version="0.1.0",
    description="Labels every frame of footage with small, specialized CNNs, folded so that the accelerator is used.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="vpipe contributors",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["pipeline", "pipeline.*", "specialized", "specialized.*"]),
    package_data={"pipeline": ["py.typed"], "specialized": ["py.typed", "weights/*.safetensors"]},
    install_requires=[
        "av>=18",
        "click>=8.1",
        "matplotlib>=3.9",
        "numpy>=2.1",
        "nvidia-ml-py>=12",
        "opencv-python-headless>=4.10",
        "prometheus-client>=0.20",
        "psutil>=6",
        "pyarrow>=18",
        "pydantic>=2.10",
        "rich>=13",
        "ruamel.yaml>=0.18",
        "safetensors>=0.4.5",
        "torch>=2.11",
    ],
    extras_require={
        "label": ["onnxruntime>=1.20"],
        "onnx": ["onnx>=1.18", "onnxruntime>=1.20", "onnxscript>=0.6"],
        "openvino": ["openvino>=2025.0"],
        "dev": [
            "hypothesis>=6.100",
            "mypy>=1.15",
            "onnx>=1.18",
            "onnxruntime>=1.20",
            "onnxscript>=0.6",
            "openvino>=2025.0",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "ruff>=0.9",
        ],
    },
    entry_points={"console_scripts": ["vpipe = pipeline.cli:main"]},
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Typing :: Typed",
    ],
)
