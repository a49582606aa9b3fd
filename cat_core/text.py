"""Text as a model was trained to read and write it: one rule for training, generation and scoring.

BOS       exactly what the tokenizer itself puts before a text, never twice.
delimiter a target is tokenised as it follows its prompt: after a blank, which belongs to the target (byte-level BPE has
          it in the token, SentencePiece makes its own of it), and without one where the prompt ends with a line.
end       a target ends with EOS, or with the token that ends a turn of the chat template.
stop      an answer ends at any of: that end, EOS, the `eos_token_id`s of the model's generation_config, and a string
          that the user names. Nothing after it counts.
control   a control token comes from the tokenizer or the template, never from data: there its name is characters.

An encoder reads what the tokenizer makes of a text; its decoder's target is what the tokenizer makes of a target.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence

TEMPLATES = ("plain", "chat", "rendered")
"""plain: the prompt as it is; chat: as the user's turn of the tokenizer's chat template; rendered: in the model's own
format already, so that control tokens in prompts are read as such."""

MARK = "\ue000"  # of the private use area: stands for an answer while a template is rendered
MASK = 0xF0000  # first code point of the plane that stands for control tokens named in data

Shots = Mapping[str, Sequence[tuple[str, str]]]
"""Task -> (prompt, target) of its examples, which stand before every prompt of the task."""


class TextFormat:
    """How texts become token ids for one tokenizer, and answers texts again.

    template: of `TEMPLATES`; stop: strings that end an answer; shots: examples before every prompt; encoder: for
    encoder-decoder models. head: ids before every prompt; end: the id that ends a target. Raises ValueError, in one
    line, for a tokenizer without EOS or, where it is asked for, without chat template.
    """

    def __init__(
        self, tokenizer, *, template: str = "plain", stop: Sequence[str] = (), shots: Shots | None = None,
        encoder: bool = False,
    ):  # fmt: skip
        check_text_settings(template, stop)
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no eos_token: set one, as every answer ends with it")
        if encoder and template != "plain":
            raise ValueError(f"template {template!r} is for causal models: an encoder reads plain prompts")
        self.tokenizer, self.template, self.encoder = tokenizer, template, encoder
        self.stop, self.shots = tuple(stop), {task: tuple(pairs) for task, pairs in (shots or {}).items()}
        self.controls = tuple(text for text in dict.fromkeys(tokenizer.all_special_tokens) if text)
        self.eos = self.end = tokenizer.eos_token_id
        self.control_ids = set(tokenizer.convert_tokens_to_ids(list(self.controls)))
        self.head, self.tail = _frame(tokenizer, "text")
        self._targets: dict[tuple[str, str, str], list[int]] = {}  # what was asked for before
        if template == "chat":
            if not getattr(tokenizer, "chat_template", None):
                raise ValueError("the tokenizer has no chat template: use template 'plain', or an instruct model")
            self.head = []  # the template has its own
            self._before_answer, after = self._turns("x", ())
            after = self._ids(after, control=True)
            self.end = next((i for i in after if i in set(tokenizer.all_special_ids)), self.eos)

    def check_cut(self, truncate_prompts: bool) -> None:
        """ValueError where prompts may be cut on the left, and that would cut off what the template begins with."""
        if truncate_prompts and (self.template != "plain" or self.shots):
            kind = f"of template {self.template!r}" if self.template != "plain" else "with examples before it"
            raise ValueError(
                f"a prompt {kind} cannot be cut on the left without losing its beginning: leave truncate_prompts off, "
                "and raise the context or shorten the prompts"
            )

    # ------------------------------------------------------------ texts to ids

    def prompts(self, texts: Sequence[str], tasks: Sequence[str] | None = None) -> list[list[int]]:
        """Token ids of prompts, in their order; tasks: of each, where there are shots."""
        texts = list(texts)
        tasks = [""] * len(texts) if tasks is None else tasks
        if self.template != "rendered":
            self._warn_of_controls(texts)
        if self.template == "chat":
            shots = [self.shots.get(task, ()) for task in tasks]
            return [self._chat(text, examples) for text, examples in zip(texts, shots, strict=True)]
        if self.shots:
            texts = [self._shown(text, task) for text, task in zip(texts, tasks, strict=True)]
        if self.encoder:
            return [[*self.head, *ids, *self.tail] for ids in self._rows(texts)]
        rows = self._rows([text.rstrip(" ") for text in texts], control=self.template == "rendered")
        return [ids if self.head and ids[: len(self.head)] == self.head else self.head + ids for ids in rows]

    def targets(self, prompts: Sequence[str], texts: Sequence[str]) -> list[list[int]]:
        """Token ids of answers, each as it follows its prompt, the end included."""
        if self.encoder:
            before, after = _frame(self.tokenizer, "text_target")
            after = after if after[-1:] == [self.end] else [*after, self.end]
            return [[*before, *ids, *after] for ids in self._rows(texts, argument="text_target")]
        keys = [(*self._place(prompt, text), text) for prompt, text in zip(prompts, texts, strict=True)]
        todo: dict[tuple[str, str], list[str]] = {}
        for anchor, blank, text in dict.fromkeys(keys):
            if (anchor, blank, text) not in self._targets:
                todo.setdefault((anchor, blank), []).append(text)
        for (anchor, blank), new in todo.items():
            for text, ids in zip(new, self._following(anchor, [blank + text for text in new])):
                self._targets[anchor, blank, text] = [*ids, self.end]
        return [list(self._targets[key]) for key in keys]

    def prompt(self, text: str, task: str = "") -> list[int]:
        """Token ids of one prompt."""
        return self.prompts([text], [task])[0]

    def target(self, text: str, prompt: str = "") -> list[int]:
        """Token ids of one answer to a prompt."""
        return self.targets([prompt], [text])[0]

    def split_rows(self, prompts: Sequence[str], texts: Sequence[str]) -> int:
        """Of how many pairs the tokens of prompt and target together are others than those of both, one after the
        other: there a model reads at the seam what it has not seen in training."""
        if self.encoder or self.template != "plain":
            return 0
        pairs = [(p.rstrip(" "), self._place(p, t)[1] + t) for p, t in zip(prompts, texts, strict=True)]
        whole = self._rows([prompt + target for prompt, target in pairs])
        parts = zip(self._rows([prompt for prompt, _ in pairs]), self.targets(prompts, texts))
        return sum(ids != head + tail[:-1] for ids, (head, tail) in zip(whole, parts))

    # ------------------------------------------------------------ ids to texts

    def stop_ids(self, model=None) -> frozenset[int]:
        """The ids that end an answer of `model` (transformers), or of any model with this tokenizer."""
        more = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        more = [] if more is None else [more] if isinstance(more, int) else more
        added = self.tokenizer.get_added_vocab() if self.stop else {}
        named = (added[text] for text in self.stop if text in added)  # such a token has no text in an answer
        return frozenset({self.eos, self.end, *(int(i) for i in more), *named})

    def stopped(self, rows: Iterable[Sequence[int]]) -> list[bool]:
        """Whether each row of ids spells one of the strings that end an answer."""
        return [any(stop in text for stop in self.stop) for text in self._texts(rows)]

    def read(self, rows: Sequence[Sequence[int]], stop_ids: frozenset[int]) -> list[tuple[str, bool]]:
        """(text without outer white space, whether the answer ended) of generated ids, the ending token among them."""
        ended = [bool(ids) and ids[-1] in stop_ids for ids in rows]
        texts = self._texts([ids[:-1] if end else ids for ids, end in zip(rows, ended)])
        answers = []
        for text, end in zip(texts, ended):
            kept = before_stop(text, self.stop)
            answers.append((kept.strip(), end or kept != text))
        return answers

    def describe(self) -> dict:
        """All that the ids depend on besides the texts, as plain JSON: for manifests, stores and fingerprints."""
        shots = json.dumps([[task, list(map(list, pairs))] for task, pairs in sorted(self.shots.items())])
        about = {"template": self.template, "head": self.head, "end": self.end, "target": self.target("a", "a:")}
        if self.template == "chat":
            about["chat template"] = _sha256(str(self.tokenizer.chat_template))
        return about | {"stop": list(self.stop)} | ({"shots": _sha256(shots)} if self.shots else {})

    # ------------------------------------------------------------ inside

    def _rows(self, texts: Sequence[str], control: bool = False, argument: str = "text") -> list[list[int]]:
        """Ids of texts without anything before or after; control: names of control tokens are read as these."""
        texts = list(texts)
        options = {"add_special_tokens": False, "split_special_tokens": not control}
        rows = self.tokenizer(**{argument: texts}, **options)["input_ids"] if texts else []
        if not control:
            for i, text in enumerate(texts):
                named = [name for name in self.controls if name in text]
                if named and self.control_ids.intersection(rows[i]):
                    # A unigram vocabulary has the names among its pieces: cut each after its first character.
                    for name in named:
                        text = text.replace(name, f"{name[0]}{MARK}{name[1:]}")
                    rows[i] = [i for ids in self._rows(text.split(MARK), argument=argument) for i in ids]
        return rows

    def _ids(self, text: str, control: bool = False) -> list[int]:
        return self._rows([text], control)[0] if text else []

    def _texts(self, rows: Iterable[Sequence[int]]) -> list[str]:
        known = len(self.tokenizer)  # ids beyond it are padding of the output matrix: they have no text
        kept = [[i for i in ids if i < known] for ids in rows]
        return self.tokenizer.batch_decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _place(self, prompt: str, text: str) -> tuple[str, str]:
        """What a target follows, as a short text with the same effect on its tokens, and the blank before it."""
        if self.template == "chat":
            prompt = self._before_answer  # the same for every prompt, as far as the answer sees
        bare = prompt.rstrip(" ")
        if self.template != "plain" and bare.endswith(self.controls):
            return "", " " * (bare != prompt)
        if bare[-1:].isspace():  # a line has ended
            return "\n", ""
        blank = bare != prompt if self.template == "chat" else not text[:1].isspace()
        return ":", " " * blank

    def _following(self, anchor: str, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts as they follow `anchor`; by themselves, where it is not cut off from them."""
        before, alone = self._ids(anchor), self._rows(texts)
        together = self._rows([anchor + text for text in texts])
        n = len(before)
        return [ids[n:] if ids[:n] == before and len(ids) > n else own for ids, own in zip(together, alone)]

    def _turns(self, text: str, shots: Sequence[tuple[str, str]]) -> tuple[str, str]:
        """What the chat template puts before the answer to `text`, and after it."""
        turns = [(role, said) for pair in (*shots, (text, MARK)) for role, said in zip(("user", "assistant"), pair)]
        messages = [{"role": role, "content": said} for role, said in turns]
        before, mark, after = self.tokenizer.apply_chat_template(messages, tokenize=False).rpartition(MARK)
        if not mark:
            raise ValueError("the tokenizer's chat template leaves out the assistant's turn: use template 'plain'")
        return before, after

    def _chat(self, text: str, shots: Sequence[tuple[str, str]]) -> list[int]:
        """Ids of a prompt as the user's turn, shots before it."""
        named = [c for c in self.controls if any(c in said for said in (text, *(s for pair in shots for s in pair)))]
        masks = {control: chr(MASK + i) for i, control in enumerate(named)}

        def masked(said: str) -> str:
            for control, mask in masks.items():
                said = said.replace(control, mask)
            return said

        rendered = self._turns(masked(text), [(masked(p), masked(t)) for p, t in shots])[0].rstrip(" ")
        if not masks:
            return self._ids(rendered, control=True)
        ids, start, names = [], 0, {mask: control for control, mask in masks.items()}
        for place, character in enumerate(rendered):
            if character in names:  # control tokens of the template, then the characters of one that data name
                ids += self._ids(rendered[start:place], control=True) + self._ids(names[character])
                start = place + 1
        return ids + self._ids(rendered[start:], control=True)

    def _shown(self, text: str, task: str) -> str:
        """A prompt with the examples of its task before it, a blank line between them."""
        shots = [p.rstrip(" ") + self._place(p, t)[1] + t for p, t in self.shots.get(task, ())]
        return "\n\n".join([*shots, text])

    def _warn_of_controls(self, texts: Sequence[str]) -> None:
        named = [control for control in self.controls if any(control in text for text in texts)]
        if named:
            count = sum(any(control in text for control in named) for text in texts)
            advice = "" if self.template == "chat" else "; prompts in the model's own format need template 'rendered'"
            warnings.warn(
                f"{count} of {len(texts)} prompts hold the name of a control token, such as {named[0]!r}: it is read "
                f"as characters{advice}",
                stacklevel=3,
            )


def check_text_settings(template: str, stop: Sequence[str]) -> None:
    """A one-line ValueError for a template or a stop string that `TextFormat` would refuse."""
    if template not in TEMPLATES:
        raise ValueError(f"unknown template {template!r}: choose {', '.join(TEMPLATES)}")
    if isinstance(stop, str) or not all(isinstance(text, str) and text for text in stop):
        raise ValueError(f"stop must be a list of texts, none of them empty, got {stop!r}")


def before_stop(text: str, stop: Sequence[str]) -> str:
    """The text up to the first of the strings that end an answer."""
    return text[: min((place for string in stop if (place := text.find(string)) >= 0), default=len(text))]


def _frame(tokenizer, argument: str) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before and after a text, or a target (argument: "text" or "text_target")."""
    whole, bare = (tokenizer(**{argument: "x"}, add_special_tokens=a)["input_ids"] for a in (True, False))
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    special = [token in set(tokenizer.all_special_ids) for token in whole]
    inner = special.index(False) if False in special else 0
    return whole[:inner], [token for token, end in zip(whole[inner:], special[inner:]) if end]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
