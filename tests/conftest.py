"""What all tests share."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow"))  # its programs import each other by name
sys.path.insert(0, str(Path(__file__).resolve().parent / "algorithms"))  # `common`, the checks of all algorithms
