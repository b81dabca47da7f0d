"""Java for scripts that look for it here; it stands in `first_stage/java.py`."""

from .first_stage.java import java_class, run_java

__all__ = ["java_class", "run_java"]
