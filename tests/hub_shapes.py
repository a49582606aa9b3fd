"""Rows made by hand in the shape that the Hub has them, one maker for each entry of the registry: number -> row.

A row's number decides its label, so that a test can say what must come out; all texts are invented.
"""

GERMAN = ("Der Hund schläft.", "Das Haus ist rot.", "Wir fahren morgen.", "Sie singt gern.")


def glue(*names, labels=2):
    return lambda n: {name: f"{name} {n} holds." for name in names} | {"label": n % labels, "idx": n}


def choices(question, count=4):
    return lambda n: {
        "id": f"q{n}", question: f"Which is number {n}?",
        "choices": {"text": [f"wrong {i} of {n}" if i != n % count else f"right {n}" for i in range(count)],
                    "label": list("ABCDE"[:count])},
        "answerKey": "ABCDE"[n % count],
    }  # fmt: skip


def squad(n):
    golds = [] if n % 5 == 4 else [f"answer {n}", f"Answer, {n}", f"the reply {n}"][: 1 + n % 3]
    return {"id": str(n), "title": "A_page", "context": f"Passage {n // 2}.", "question": f"What is {n}?",
            "answers": {"text": golds, "answer_start": [0] * len(golds)}}  # fmt: skip


def record(n):
    passage = f"Ann {n} met Bob {n}. Bob Lee {n} left.\n@highlight\nThey met\n@highlight\nOne left"
    names = [f"Ann {n}", f"Bob {n}", f"Bob Lee {n}", f"Ann {n}"]
    return {"passage": passage, "query": "Later @placeholder slept.", "entities": names,
            "entity_spans": {"text": names, "start": [0, 8, 16, 0], "end": [5, 13, 24, 5]},
            "answers": [f"Bob {n}", f"Bob Lee {n}"] if n % 2 else [f"Ann {n}"],
            "idx": {"passage": n, "query": n}}  # fmt: skip


def coqa(n):
    turns = {"input_text": [f"Who is {n}?", "And why?"], "turn_id": [1, 2]}
    spans = {"span_start": [0, 1], "span_end": [2, 3], "span_text": ["x", "y"], "turn_id": [1, 2]}
    others = {key: {"input_text": [f"{n} {key}", f"because {key}"], **spans} for key in "012"} if n >= 100 else None
    return {"id": f"s{n}", "source": "wikipedia", "story": f"A story of {n}.", "questions": turns,
            "answers": {"input_text": [f"Somebody {n}", "because"], **spans}, "additional_answers": others}  # fmt: skip


def drop(n):
    nothing, date = {"day": "", "month": "", "year": ""}, {"day": "1", "month": "May", "year": f"19{n % 90 + 10}"}
    forms = [(str(n), nothing, []), ("", date, []), ("", nothing, [f"span {n}", "another"])]
    number, date, spans = forms[n % 3]
    checked = {"number": [number, ""], "date": [date, nothing], "spans": [spans, [f"other {n}"]]}
    return {"query_id": f"q{n}", "passage": f"Passage {n}.", "question": f"How many are {n}?",
            "answer": {"number": number, "date": date, "spans": spans, "hit_id": "h", "worker_id": "w"},
            "validated_answers": checked if n >= 100 else {"number": [], "date": [], "spans": []}}  # fmt: skip


def trivia(n):
    aliases = [f"The Place {n}", f"Place {n}"]
    answer = {"aliases": aliases, "normalized_aliases": [a.lower() for a in aliases], "matched_wiki_entity_name": "",
              "normalized_matched_wiki_entity_name": "", "normalized_value": f"place {n}", "type": "WikipediaEntity",
              "value": f"Place {n}"}  # fmt: skip
    empty = {"doc_source": [], "filename": [], "title": [], "wiki_context": []}
    return {"question": f"Where is {n}?", "question_id": f"tc_{n}", "question_source": "x", "entity_pages": empty,
            "search_results": {"description": [], "url": []}, "answer": answer}  # fmt: skip


def story(n):
    sentences = {f"input_sentence_{i}": f"Sentence {i} of {n}." for i in (1, 2, 3, 4)}
    ends = {f"sentence_quiz{i}": f"right {n}" if i == n % 2 + 1 else f"wrong {n}" for i in (1, 2)}
    return {"story_id": f"s{n}", **sentences, **ends, "answer_right_ending": n % 2 + 1}


def hellaswag(n):
    endings = [f"[header] wrong {i} of {n}" if i != n % 4 else f"right [substeps] {n}" for i in range(4)]
    return {"ind": n, "activity_label": "Tea", "ctx_a": "", "ctx_b": "", "ctx": f"[header] Making tea {n} [title] Boil",
            "endings": endings, "source_id": f"w~{n // 2}", "split": "train", "split_type": "indomain",
            "label": str(n % 4)}  # fmt: skip


def pair(source, target):
    """A row of a WMT set; on the Hub one config serves both directions, so the languages come in any order."""
    return lambda n: {"id": str(n), "translation": {target: f"{GERMAN[n % 4]} {n}", source: f"source {n}"},
                      "references": [f"{GERMAN[n % 4]} {n}", f"another {n}"]}  # fmt: skip


NLI = glue("premise", "hypothesis", labels=3)
SHAPES = {
    "ag_news": lambda n: {"text": f"Story {n}. It Rained.", "label": n % 4},
    "anli": lambda n: {"uid": str(n), **NLI(n), "reason": ""},
    "arc-challenge": choices("question"), "arc-easy": choices("question"),
    "boolq": lambda n: {"question": f"is {n} odd", "passage": f"On {n}.", "idx": n, "label": n % 2},
    "cb": NLI, "cola": glue("sentence"),
    "copa": lambda n: {"premise": f"It was {n}.", "choice1": f"{'wrong' if n % 2 else 'right'} {n}",
                       "choice2": f"{'right' if n % 2 else 'wrong'} {n}", "question": "cause", "idx": n,
                       "label": n % 2},
    "coqa": coqa,
    "cosmos_qa": lambda n: {"id": f"c{n}", "context": f"On day {n}", "question": "Why?", "label": n % 4,
                            **{f"answer{i}": f"right {n}" if i == n % 4 else f"wrong {i}" for i in range(4)}},
    "definite_pronoun": lambda n: {"sentence": f"Ann {n} saw Bob as she left.", "pronoun": "she", "label": n % 2,
                                   "candidates": [f"{'wrong' if n % 2 else 'right'} {n}",
                                                  f"{'right' if n % 2 else 'wrong'} {n}"]},
    "drop": drop, "hellaswag": hellaswag,
    "imdb": lambda n: {"text": f"Film {n}.<br /><br />So it was.", "label": n % 2},
    "math": lambda n: {"question": f"b'Solve 2*x = {2 * n} for x.\\n'", "answer": f"b'{n}\\n'"},
    "mnli": NLI, "mrpc": glue("sentence1", "sentence2"),
    "multi30k-de-en": lambda n: {"en": f"The dog {n} sleeps.", "de": f"{GERMAN[n % 4]} {n}"},
    "multirc": lambda n: {"paragraph": f"Passage {n // 4}.", "question": f"Q {n // 2}?", "answer": f"A {n}.",
                          "idx": {"paragraph": n // 4, "question": n // 2, "answer": n}, "label": n % 2},
    "natural_questions": lambda n: {"question": f"who made {n}", "answer": [f"Somebody {n}", f"Some Body {n}"]},
    "openbookqa": choices("question_stem"),
    "paws": lambda n: {"id": n, "sentence1": f"A {n} B", "sentence2": f"B {n} A", "label": n % 2},
    "piqa": lambda n: {"goal": f"Do {n}", "sol1": f"{'wrong' if n % 2 else 'right'} {n}",
                       "sol2": f"{'right' if n % 2 else 'wrong'} {n}", "label": n % 2},
    "qnli": glue("question", "sentence"), "qqp": glue("question1", "question2"),
    "record": record, "rte": glue("premise", "hypothesis"),
    "samsum": lambda n: {"id": str(n), "dialogue": f"Ann: See {n}\r\nBob: <file_photo> ok",
                         "summary": f"Ann sees {n}."},
    "sentiment140": lambda n: {"text": f"tweet {n}", "date": "Mon", "user": f"u{n // 2}",
                               "sentiment": 2 if n == 103 else 4 * (n % 2), "query": "q"},
    "snli": NLI, "squad_v1": lambda n: squad(5 * n + n % 3), "squad_v2": squad, "sst2": glue("sentence"),
    "story_cloze": story,
    "tatoeba-de-en": pair("de", "en"),
    "trec": lambda n: {"text": f"What is {n} ?", "coarse_label": n % 6, "fine_label": n % 50},
    "trivia_qa": trivia,
    "wic": lambda n: {"word": f"w{n // 2}", "sentence1": f"A w {n}.", "sentence2": f"B w {n}.", "start1": 2,
                      "start2": 2, "end1": 3, "end2": 3, "idx": n, "label": n % 2},
    "wsc": lambda n: {"text": f"Ann {n} left as she slept.", "span1_index": 0, "span2_index": 4, "span1_text": "Ann",
                      "span2_text": "she", "idx": n, "label": n % 2},
    "yelp_polarity": lambda n: {"text": f"Soup {n}\\n\\nwas \\\"\"hot\\\"\".", "label": n % 2},
}  # fmt: skip
for _stem in ("true_case", "fix_punct", "word_segment"):
    SHAPES[_stem] = SHAPES["ag_news"]


def shape_of(task, spec):
    """The maker of the rows of a task, a variant included."""
    if task.startswith("wmt22-"):
        return pair(spec.values["from"], spec.values["to"])
    return SHAPES[max((stem for stem in SHAPES if task == stem or task.startswith(f"{stem}-")), key=len)]
