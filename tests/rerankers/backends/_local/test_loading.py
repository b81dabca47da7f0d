"""Weights: adapters, devices of modules and quantised models give what transformers and peft give by themselves."""

import importlib.util
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from r2llm.rerankers.backends import transformers as backend_module
from r2llm.rerankers.backends._local import weights
from r2llm.rerankers.backends._local.loading import load, locate
from r2llm.rerankers.backends.base import Setting
from r2llm.rerankers.errors import InputError

IDS = [[0, 5, 60, 70, 80, 9, 33]]


def opened(folder: Path | str, **options):
    return backend_module.open(backend_module.Options(name=str(folder), **options), Setting())


def logits(model) -> list[float]:
    """A model's logits after a few tokens."""
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor(IDS)).logits[0, -1].tolist()


@pytest.fixture(scope="module")
def lora(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LoRA adapter of the tiny Llama, of random weights."""
    return adapter(tiny_llama, tmp_path_factory.mktemp("lora"), "CAUSAL_LM")


@pytest.fixture(scope="module")
def head(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that brings a classification head of one label."""
    return adapter(tiny_llama, tmp_path_factory.mktemp("head"), "SEQ_CLS")


def adapter(base: Path, folder: Path, task: str) -> Path:
    import torch
    import transformers

    peft = pytest.importorskip("peft")
    kind = getattr(transformers, f"AutoModelFor{'CausalLM' if task == 'CAUSAL_LM' else 'SequenceClassification'}")
    more = {} if task == "CAUSAL_LM" else {"num_labels": 1}
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type=task, init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        peft.get_peft_model(kind.from_pretrained(base, **more), config).save_pretrained(folder)
    return folder


@pytest.fixture
def copied(lora: Path, tmp_path: Path) -> Path:
    """A copy of the adapter that a test may change."""
    return Path(shutil.copytree(lora, tmp_path / "copied"))


def changed(folder: Path, **values: object) -> None:
    """Change what an adapter's config says."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# Adapters


def test_an_adapter_is_merged_into_the_weights(tiny_llama: Path, lora: Path) -> None:
    import peft
    import transformers

    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    plain = logits(base)
    expected = logits(peft.PeftModel.from_pretrained(base, lora).eval())
    model = opened(tiny_llama, adapter=str(lora)).passes.model
    assert logits(model) == pytest.approx(expected, abs=1e-5)
    assert logits(model) != pytest.approx(plain, abs=1e-2)
    assert type(model) is transformers.LlamaForCausalLM
    assert not [name for name, _ in model.named_parameters() if "lora" in name]


def test_a_folder_that_is_an_adapter_names_its_base_model(tiny_llama: Path, lora: Path) -> None:
    backend, same = opened(lora), opened(tiny_llama, adapter=str(lora))
    assert backend.identity == same.identity
    assert logits(backend.passes.model) == logits(same.passes.model)
    assert backend.details == same.details


def test_an_adapter_is_part_of_what_the_model_is(tiny_llama: Path, lora: Path, copied: Path) -> None:
    plain, one = opened(tiny_llama), opened(tiny_llama, adapter=str(lora))
    assert one.identity == plain.identity | {"adapter": one.weights.adapter.identity}
    assert opened(tiny_llama, adapter=str(copied)).identity == one.identity
    (copied / "adapter_model.safetensors").write_bytes(b"other")
    assert opened(tiny_llama, adapter=str(copied)).identity != one.identity
    told = one.details["adapter"]
    assert told["name"] == lora.name
    assert "adapter_model.safetensors" in told["files"]
    assert str(lora.parent) not in json.dumps(dict(one.details))


def test_an_adapter_that_brings_a_head_makes_a_cross_encoder(tiny_llama: Path, head: Path) -> None:
    import peft
    import transformers

    base = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_llama, num_labels=1).eval()
    expected = logits_of_head(peft.PeftModel.from_pretrained(base, head).eval())
    model = opened(head).weights.load("head")
    assert logits_of_head(model) == pytest.approx(expected, abs=1e-5)


def logits_of_head(model) -> list[float]:
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor(IDS)).logits[0].tolist()


def test_a_tokenizer_that_comes_with_an_adapter_is_used(tiny_llama: Path, copied: Path) -> None:
    assert opened(tiny_llama, adapter=str(copied)).tokens.tokenizer.chat_template
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_llama / name, copied / name)
    assert opened(tiny_llama, adapter=str(copied)).tokens.tokenizer.chat_template is None


def test_an_adapter_that_does_not_fit_is_refused(
    tiny_llama: Path, tiny_t5: Path, lora: Path, head: Path, copied: Path
) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(InputError, match=rf"^adapter {lora} does not fit the model: Target modules .* not found"):
        _ = opened(tiny_t5, adapter=str(lora)).passes.model
    with pytest.raises(InputError, match=rf"^adapter {head} does not fit the model: 1 of its weights have no place"):
        _ = opened(head).passes.model
    weights = load_file(copied / "adapter_model.safetensors")
    missing = sorted(weights)[0]
    save_file(
        {name: weight for name, weight in weights.items() if name != missing}, copied / "adapter_model.safetensors"
    )
    with pytest.raises(InputError, match="does not fit the model: 1 of its weights have no place there or are missing"):
        _ = opened(tiny_llama, adapter=str(copied)).passes.model


def test_adapters_that_cannot_be_used_are_one_line(tiny_llama: Path, lora: Path, copied: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^model\.adapter: no folder {tmp_path}/none$"):
        opened(tiny_llama, adapter=f"{tmp_path}/none")
    with pytest.raises(InputError, match=r"^model\.adapter: folder .* holds no adapter \(no adapter_config\.json\)$"):
        opened(tiny_llama, adapter=str(tiny_llama))
    with pytest.raises(InputError, match=r"^model\.name: .* is an adapter, not a model; model\.adapter adds only one$"):
        opened(lora, adapter=str(lora))
    changed(copied, base_model_name_or_path="/nowhere/base")
    with pytest.raises(InputError, match=rf"^the base model of adapter {copied}: no folder /nowhere/base$"):
        opened(copied)
    changed(copied, base_model_name_or_path=None)
    with pytest.raises(InputError) as raised:
        opened(copied)
    assert str(raised.value) == (
        f"model.name: adapter {copied} names no base model; name that, and model.adapter: {copied}"
    )
    (copied / "adapter_config.json").write_text("{")
    with pytest.raises(InputError, match=r"adapter_config\.json cannot be read: Expecting property name"):
        opened(copied)
    (copied / "adapter_model.safetensors").write_bytes(b"other")
    with pytest.raises(InputError, match=r"adapter_model\.safetensors cannot be read: "):
        _ = opened(tiny_llama, adapter=str(copied)).passes.model


def test_prompt_tuning_is_no_adapter_of_weights(tiny_llama: Path, tmp_path: Path) -> None:
    import transformers

    peft = pytest.importorskip("peft")
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama)
    config = peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    peft.get_peft_model(base, config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="PROMPT_TUNING adds tokens to prompts, and cannot be merged into weights"):
        _ = opened(tiny_llama, adapter=str(tmp_path)).passes.model


def test_a_package_that_is_not_installed_is_named(tiny_llama: Path, lora: Path, monkeypatch) -> None:
    find = importlib.util.find_spec
    absent: set[str] = set()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in absent else find(name, *more))
    wanted = {
        "peft": {"adapter": str(lora)},
        "gguf": {"gguf": __file__},
        "accelerate": {"device_map": "auto"},
    }
    for package, options in wanted.items():
        absent = {package}
        with pytest.raises(InputError, match=rf"needs the package {package}: pip install 'r2llm\[{package}\]'$"):
            _ = opened(tiny_llama, **options).passes.model


def test_an_adapter_in_the_hubs_cache_is_found_with_its_base(
    tiny_llama: Path, copied: Path, tmp_path: Path, monkeypatch
) -> None:
    import huggingface_hub

    commits = {"someone/tiny": "0" * 39 + "1", "someone/lora": "0" * 39 + "2"}
    changed(copied, base_model_name_or_path="someone/tiny")
    for (name, commit), folder in zip(commits.items(), (tiny_llama, copied), strict=True):
        cached = tmp_path / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, cached / "snapshots" / commit)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for backend in (opened("someone/lora"), opened("someone/tiny", adapter="someone/lora")):
        told = backend.identity
        assert [told["model"], told["adapter"]] == [f"{name}@{commit}" for name, commit in commits.items()]
        assert backend.passes.model.config.vocab_size == len(backend.tokens.tokenizer)
        assert backend.details["adapter"]["revision"] == commits["someone/lora"]


# Devices


@pytest.mark.parametrize("places", ["auto", "sequential", {"": "cpu"}, {"model": "cpu", "lm_head": "cpu"}])
def test_a_device_map_changes_no_answer(tiny_llama: Path, places) -> None:
    pytest.importorskip("accelerate")
    plain = opened(tiny_llama, device="cpu")
    backend = opened(tiny_llama, device_map=places, device="auto" if isinstance(places, dict) else "cpu")
    assert logits(backend.passes.model) == logits(plain.passes.model)
    assert backend.identity == plain.identity
    assert backend.details == plain.details | {"device_map": places}
    assert str(backend.device) == "cpu"


def test_modules_may_lie_in_different_places(tiny_llama: Path) -> None:
    pytest.importorskip("accelerate")
    near = ("model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.norm", "lm_head")
    backend = opened(tiny_llama, device_map=dict.fromkeys(near, "cpu") | {"model.layers.1": "disk"})
    assert backend.passes.model.hf_device_map["model.layers.1"] == "disk"
    assert backend.passes.model.model.layers[1].mlp.up_proj.weight.device.type == "meta"
    assert logits(backend.passes.model) == logits(opened(tiny_llama, device="cpu").passes.model)


def test_the_first_device_of_a_map_is_where_prompts_go(monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def device(**options) -> str:
        return str(weights.Weights(weights.WeightOptions(name="x", **options), None, None, None).device)

    assert device(device_map={"model.layers.0": "cpu", "model.layers.1": 1, "lm_head": 2}) == "cuda:1"
    assert device(device_map={"": "cuda:0"}) == "cuda:0"
    assert device(device_map={"": "cpu"}) == "cpu"
    assert device(device_map="balanced") == "cuda"


def test_a_device_map_of_unknown_devices_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(InputError, match=r"^model\.device: abacus is no device; use auto"):
        opened(tiny_llama, device_map={"": "abacus"})


# Quantised weights


def test_a_quantised_model_says_what_it_needs(tiny_llama: Path, tmp_path: Path) -> None:
    for method, package in (("torchao", "torchao"), ("bitsandbytes", "bitsandbytes")):
        if importlib.util.find_spec(package):
            continue
        folder = Path(shutil.copytree(tiny_llama, tmp_path / method))
        path = folder / "config.json"
        more = {"bitsandbytes": {"load_in_4bit": True}, "torchao": {"quant_type": "int8_weight_only"}}.get(method, {})
        told = json.loads(path.read_text()) | {"quantization_config": {"quant_method": method} | more}
        path.write_text(json.dumps(told))
        backend = opened(folder, device="cpu")
        assert backend.details["quantization"] == method
        with pytest.raises(InputError, match=rf"^model\.name: .* cannot be loaded: .*pip install.*{package}"):
            _ = backend.passes.model


# Threads


def test_no_two_threads_load_at_once(tiny_t5: Path) -> None:
    inside, most = [], []

    class Kind:
        @staticmethod
        def from_pretrained(name: str, **_: object) -> str:
            inside.append(name)
            most.append(len(inside))
            time.sleep(0.005)
            inside.pop()
            return name

    source = locate(str(tiny_t5))
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: load(Kind, source), range(16))) == {str(tiny_t5)}
    assert set(most) == {1}


@pytest.fixture(scope="module")
def gguf_file(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama as a GGUF file in float32, laid out as llama.cpp's converter does, with a vocabulary alone."""
    import transformers

    gguf = pytest.importorskip("gguf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype="float32")
    tokenizer, config = transformers.AutoTokenizer.from_pretrained(tiny_llama), model.config
    file = tmp_path_factory.mktemp("gguf") / "tiny [1].gguf"  # a pattern of file names, were it taken for one
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_freq_base(10_000.0)
    writer.add_tokenizer_model("gpt2")
    tokens = tokenizer.convert_ids_to_tokens(range(config.vocab_size))
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges(
        [" ".join(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]
    )
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if heads := {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2]):
            halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
            weight = halves.swapaxes(1, 2).reshape(weight.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_gguf_file_is_the_model_that_it_was_made_of(tiny_llama: Path, gguf_file: Path, capfd) -> None:
    alone = backend_module.open(backend_module.Options(gguf=str(gguf_file)), Setting())
    beside = opened(tiny_llama, gguf=str(gguf_file))
    folder = opened(tiny_llama)
    assert logits(alone.passes.model) == pytest.approx(logits(folder.passes.model), abs=1e-5)
    text = "which moon is red? 42"
    read = [
        backend.tokens.tokenizer(text, add_special_tokens=False)["input_ids"] for backend in (alone, beside, folder)
    ]
    assert read[0] == read[1] == read[2]
    assert len({json.dumps(backend.identity) for backend in (alone, beside, folder)}) == 3
    details = alone.details
    assert (details["name"], list(details["files"])) == ("tiny [1].gguf", ["tiny [1].gguf"])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gguf": "nowhere.gguf"}, "model.gguf: no file nowhere.gguf"),
        ({"gguf": __file__}, "test_loading.py cannot be loaded"),
    ],
)
def test_a_gguf_file_that_is_none(options, message: str) -> None:
    with pytest.raises(InputError, match=message):
        backend_module.open(backend_module.Options(**options), Setting())
