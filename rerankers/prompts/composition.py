"""Prompts composed of components: a YAML file offers choices, a name picks one of each.

A file's `components` give each component's choices, the default first. A choice is the text that stands for
`{component}` in the messages, the text form and other components, or a mapping with that `text` and any other keys of a
prompt that come with it, such as labels. `study_setwise/tone=please/order=passage_first` is the file
`study_setwise.yaml` with two of its components chosen.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from ..catalog import nearest
from ..errors import InputError


def split(name: str) -> tuple[str, dict[str, str]]:
    """Return a prompt's name or path, and the choices that follow it.

    Raises `InputError` if a component is chosen twice.
    """
    parts = name.split("/")
    chosen = list(itertools.takewhile(lambda part: "=" in part, reversed(parts)))
    choices: dict[str, str] = {}
    for part in reversed(chosen):
        component, _, choice = part.partition("=")
        if component in choices:
            raise InputError(f"prompt '{name}' chooses {component} twice")
        choices[component] = choice
    return "/".join(parts[: len(parts) - len(chosen)]), choices


def compose(content: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, Any]:
    """Return the prompt that the choices make of a file's content, with the first choice of all other components.

    Raises `InputError` if the file does not offer a component or a choice.
    """
    components: Mapping[str, Mapping[str, Any]] = content.get("components", {})
    texts: dict[str, str] = {}
    prompt = {key: value for key, value in content.items() if key != "components"}
    for component in choices:
        if component not in components:
            raise InputError(f"it has no component '{component}'{nearest(component, components)}")
    for component, offered in components.items():
        choice = choices.get(component, next(iter(offered)))
        if choice not in offered:
            raise InputError(f"component {component} has no choice '{choice}'{nearest(choice, offered)}")
        value = offered[choice] if isinstance(offered[choice], Mapping) else {"text": offered[choice]}
        texts[component] = str(value["text"])
        prompt |= {key: other for key, other in value.items() if key != "text"}
    for component, text in [*texts.items()] * len(texts):  # a component's text may hold others
        prompt["messages"] = [
            {**message, "content": message["content"].replace(f"{{{component}}}", text)}
            for message in prompt["messages"]
        ]
        if "text" in prompt:
            prompt["text"] = prompt["text"].replace(f"{{{component}}}", text)
    return prompt


def variations(name: str, content: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of all prompts that a file can make: one choice of each component that has several."""
    components = {part: choices for part, choices in content.get("components", {}).items() if len(choices) > 1}
    for choices in itertools.product(*components.values()):
        yield "/".join([name, *(f"{part}={choice}" for part, choice in zip(components, choices, strict=True))])
