"""IFEval (Zhou et al. 2023): does this response follow the instruction?

Records {prompt, response} (or `responses`, a list); gold is `follow_all_instructions` where the file has it. For the
hub data set, which has instructions alone, a model writes the responses, without gold.
"""

from collections.abc import Iterator

from icm.tasks.base import HubData, Item, Record, Task, candidates, signature


def items(record: Record) -> Iterator[Item]:
    """See `Task.items`."""
    prompt = record.text("prompt")
    for response, gold in dict.fromkeys(_responses(record)):
        yield Item(
            {"prompt_text": prompt, "response": response}, gold, prompt, prompt=prompt, completion=f" {response}"
        )


def _responses(record: Record) -> Iterator[tuple[str, str | None]]:
    if "generated" in record.fields:
        yield from ((text, None) for text in candidates(record))
    elif "responses" in record.fields:
        yield from ((text, None) for text in record.texts("responses"))
    else:
        yield record.text("response"), record.truth("follow_all_instructions", "label")


def question(record: Record) -> tuple[str, str] | None:
    """The instruction, for a model to follow, where the record has no response."""
    if "response" in record.fields or "responses" in record.fields:
        return None
    return record.text("prompt"), f"Instruction: {record.text('prompt')}\nResponse:"


TASK = Task(
    name="ifeval",
    items=items,
    signatures=(
        signature("prompt", "instruction_id_list"),
        signature("prompt", "response"),
        signature("prompt", "responses"),
    ),
    template="Instruction: {prompt_text}\nResponse: {response}\nClaim: The Response follows the Instruction.\n"
    "I think this Claim is",
    gold_fields=frozenset({"follow_all_instructions", "follow_instruction_list", "label"}),
    hub=(HubData("google/IFEval", None, "train", "train"),),
    question=question,
)
