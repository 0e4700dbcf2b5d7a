"""config.pbtxt of a Triton model folder, and a sample KServe service.

After the documentation of Triton's PyTorch backend and of its ragged batching: the server, not the
client, makes the offsets of what requests hold. It was not run in a Triton container.
"""

from collections.abc import Sequence

WARM_BATCHES = (1, 8, 64)
MAX_BATCH = 256


def arguments(num_fields: int, *, uses_times: bool) -> list[str]:
    """The inputs of the model in order; Triton calls the n-th NAME__n."""
    times = ["ages"] if uses_times else []
    history = ["item_ids", "offsets", *times, "k", "exclude_seen", "denied_items", "denied_offsets"]
    return [*history, *(f"attribute_{n}" for n in range(num_fields))]


def config(name: str, inputs: Sequence[str]) -> str:
    """The text of config.pbtxt.

    Args:
        name: of the folder.
        inputs: `arguments`.
    """
    at = {argument: f"{argument}__{place}" for place, argument in enumerate(inputs)}
    declared = [one for one in inputs if one not in ("offsets", "denied_offsets")]
    made = [("offsets", "item_ids"), ("denied_offsets", "denied_items")]
    return "\n".join(
        [
            f'name: "{name}"',
            'backend: "pytorch"',
            'platform: "pytorch_libtorch"',
            f"max_batch_size: {MAX_BATCH}",
            "input [",
            ",\n".join(_input(at[one], one) for one in declared),
            "]",
            "batch_input [",
            ",\n".join(_batch_input(at[offsets], at[of]) for offsets, of in made),
            "]",
            "output [",
            '  { name: "items__0" data_type: TYPE_INT64 dims: [ -1 ] },',
            '  { name: "scores__1" data_type: TYPE_FP32 dims: [ -1 ] }',
            "]",
            "dynamic_batching { max_queue_delay_microseconds: 500 }",
            "version_policy { latest { num_versions: 2 } }",
            "instance_group [ { kind: KIND_CPU count: 1 } ]",
            _parameter("INFERENCE_MODE", "true"),
            _parameter("DISABLE_OPTIMIZED_EXECUTION", "true"),
            "model_warmup [",
            ",\n".join(_warm_up(batch, at, declared) for batch in WARM_BATCHES),
            "]\n",
        ]
    )


def kserve(name: str) -> str:
    """A sample InferenceService; where the folder lies is for whoever runs it to say."""
    return f"""\
# A sample: say where the triton/ folder of this bundle lies.
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {name.replace("_", "-")}
spec:
  predictor:
    model:
      modelFormat:
        name: triton
      protocolVersion: v2
      storageUri: s3://BUCKET/triton
"""


def _type(argument: str) -> str:
    return {"ages": "TYPE_FP32", "exclude_seen": "TYPE_BOOL"}.get(argument, "TYPE_INT64")


def _is_ragged(argument: str) -> bool:
    return argument in ("item_ids", "ages", "denied_items")


def _input(name: str, argument: str) -> str:
    ragged = " allow_ragged_batch: true" if _is_ragged(argument) else ""
    dims = "-1" if _is_ragged(argument) else "1"
    return f'  {{ name: "{name}" data_type: {_type(argument)} dims: [ {dims} ]{ragged} }}'


def _batch_input(name: str, source: str) -> str:
    return (
        f'  {{ kind: BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO target_name: "{name}" '
        f'data_type: TYPE_INT32 source_input: "{source}" }}'
    )


def _parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'


def _warm_up(batch: int, at: dict[str, str], declared: Sequence[str]) -> str:
    # k: as random_data it would be any number, as zero_data none; from the file it is 10
    inputs = [
        f'    inputs {{ key: "{at[one]}" value {{ data_type: {_type(one)} dims: [ 1 ] '
        + ('input_data_file: "k" }' if one == "k" else "zero_data: true }")
        + " }"
        for one in declared
    ]
    return "\n".join([f'  {{ name: "{batch}" batch_size: {batch}', *inputs, "  }"])
