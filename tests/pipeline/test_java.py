"""Scripts that import Java from the pipeline find it."""

from r2llm.pipeline import java
from r2llm.pipeline.first_stage import java as there


def test_the_old_place_has_the_same_functions() -> None:
    assert (java.run_java, java.java_class) == (there.run_java, there.java_class)
