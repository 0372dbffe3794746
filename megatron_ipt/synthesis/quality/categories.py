"""Kinds of questions, by rules about their wording.

The rules know English only and ignore the text. The first rule that matches decides: "Is it true that ...?" is the
check of a claim, not a yes/no question. They show what a corpus covers and what it lacks; single pairs can be
misjudged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_AUXILIARIES = (
    "am|are|can|could|did|do|does|had|has|have|is|may|might|must|shall|should|was|were|will|would"
    "|aren't|can't|couldn't|didn't|doesn't|don't|hasn't|haven't|isn't|shouldn't|wasn't|weren't|won't|wouldn't"
)
_FIRST = r"^(?:(?!\b(?:how|what|when|where|which|who|whom|whose|why)\b).)*\b"  # what follows is the first such word
_TEXTS = "article|book|conversation|dialogue|document|paragraph|passage|report|sentence|story|text"
_TIMES = "century|date|day|decade|era|month|period|season|time|year"
_PLACES = "area|city|cities|continent|countr(?:y|ies)|county|location|place|region|state|town|village"
_PERSONS = "actor|actress|author|band|character|company|director|group|organi[sz]ation|person|player|singer|team|writer"
_QUANTITIES = (
    "age|amount|cost|height|length|number|percent|percentage|population|price|proportion|rate|ratio|score|size|sum"
)
_ORDERS = "(?:better|fewer|greater|higher|larger|less|longer|lower|more|older|smaller|worse|younger)"
_RULES = {
    "summary": (
        r"\bsummari[sz]e\b",
        r"\bsummary of (?:the|this)\b",
        r"\btl;?dr\b",
        r"\b(?:main|central) (?:idea|point|topic|theme)\b",
        r"\b(?:mainly|primarily) about\b",
        r"\bgist of\b",
        rf"\bsum up (?:the|this) (?:{_TEXTS})",
    ),
    "title": (
        r"\b(?:best|good|suitable|appropriate|possible) (?:title|headline)\b",
        rf"\b(?:title|headline) (?:for|of) (?:the|this) (?:{_TEXTS})",
        r"^(?:please )?(?:suggest|write|give|generate)\b.{0,30}\b(?:title|headline)\b",
    ),
    "sentiment": (
        r"\bsentiment\b",
        r"\bpositive or negative\b",
        r"\bnegative or positive\b",
        r"\b(?:tone|mood|attitude) of\b",
    ),
    "claim check": (
        r"\btrue or false\b",
        r"\btrue[ ./]+false\b",
        r"\b(?:is|are) (?:it|this|these|that) (?:true|false|correct)\b",
        r"\b(?:claim|statement|hypothesis|premise)s?\b.*\b(?:true|false|supported|correct|follows?)\b",
        r"\bentail",
        r"\bcontradict",
    ),
    "rewriting": (
        r"^(?:please |can you )?(?:paraphrase|rephrase|rewrite|reword|simplify|translate)\b",
        r"\bin other words\b",
    ),
    "completion": (
        r"_{2,}",
        r"\bfill in\b",
        rf"\b(?:complete|finish|continue) (?:the|this) (?:following )?(?:{_TEXTS})",
        rf"\bhow (?:does|will|might) (?:the|this) (?:{_TEXTS}) (?:end|continue)",
    ),
    "writing": (r"^(?:please )?(?:write|compose|create|generate|draft|design)\b",),
    "commonsense": (
        r"\b(?:likely|probably|plausibl[ey])\b",
        r"\bmay be the\b",
        r"\binfer",
        r"\bimpl(?:y|ies|ied)\b",
        r"^(?:what|how|why) (?:will|would|might|may)\b",
        r"\bwhat if\b",
        r"\bneed to do before\b",
    ),
    "yes or no": (rf"^(?:and |but |so |also,? )?(?:{_AUXILIARIES})\b(?!.*\bor (?:an? |the )?[\w'’-]+\?$)",),
    "number": (
        rf"{_FIRST}how (?:many|much|long|often|far|old|tall|big|large|high|deep|fast|heavy|wide)\b",
        rf"\b(?:the|what|total|average) (?:{_QUANTITIES})\b",
        r"\bcalculate\b",
        r"\bcompute\b",
    ),
    "comparison": (
        r"\bcompar",
        r"\bdiffers?\b",
        r"\bdifferences?\b",
        r"\bdifferent from\b",
        r"\bsimilar",
        r"\bin common\b",
        r"\b(?:versus|vs)\b",
        rf"\b{_ORDERS}\b.*\b(?:than|or)\b",
    ),
    "time": (
        rf"{_FIRST}when\b",
        rf"\b(?:what|which) (?:was the |is the |were the )?(?:{_TIMES})s?\b",
        r"\bhow (?:recent|soon)",
    ),
    "place": (rf"{_FIRST}where\b", rf"\b(?:what|which) (?:was the |is the )?(?:{_PLACES})s?\b"),
    "person or group": (rf"{_FIRST}wh(?:o|om|ose)\b", rf"\b(?:what|which) (?:was the |is the )?(?:{_PERSONS})s?\b"),
    "cause": (
        rf"{_FIRST}(?:why|how come)\b",
        r"\bwhat (?:is|was|are|were)? ?(?:the )?(?:reasons?|causes?|caused|led|made|motivat\w+)\b",
    ),
    "effect": (
        r"\bwhat happen",
        r"\bwhat (?:(?:is|was|are|were) )?(?:the |an? )?(?:effect|impact|result|consequence|outcome|influence)s?\b",
        r"\baffects?\b",
        r"\bconsequences? of\b",
    ),
    "procedure": (
        rf"{_FIRST}how\b",
        r"\bsteps?\b",
        r"\bprocedure\b",
        r"\btreatments? (?:for|of)\b",
        r"^what should\b",
    ),
    "purpose": (r"\b(?:purpose|function|role|goal|aim|objective) of\b", r"\bwhat .*\bused for\b"),
    "list": (
        r"^(?:list|name|enumerate|identify|mention)\b",
        r"\bwhat (?:are|were) (?:the |some )?(?:\w+ )?(?:two|three|four|five|types|kinds|examples|factors|ways)\b",
        r"\bwhat (?:are|were) (?:the |some )?(?:\w+ )?(?:names|features|characteristics|signs|symptoms)\b",
        r"\bexamples of\b",
    ),
    "definition": (
        r"\bdefin(?:e|ition)\b",
        r"\bmean(?:s|ing)?\b",
        r"\bmeant by\b",
        r"\bstands? for\b",
        r"^what (?:is|are) (?:an? |the |\(are\) )?[\w'’-]+(?: [\w'’-]+){0,2}\s*\?$",
    ),
    "description": (
        r"^(?:describe|explain|discuss|tell)\b",
        r"\bwhat .*\b(?:like|described?)\b",
        r"\bknown for\b",
    ),
    "choice": (rf"{_FIRST}which\b", rf"\b(?:{_AUXILIARIES})\b.+\bor\b.+\?$"),
    "fact": (r"\bwhat\b",),
}
_CLAIM_ANSWERS = frozenset(
    ("true", "false", "supported", "refuted", "supports", "refutes", "entailment", "contradiction", "not enough info")
)
_MAX_READ = 400  # characters
_COMPILED = {name: re.compile("|".join(ways), re.IGNORECASE | re.DOTALL) for name, ways in _RULES.items()}
CATEGORIES = (*_RULES, "other")


def find_category(question: str, answer: str, options: Sequence[str] = ()) -> str:
    """Return one of `CATEGORIES` for a question, given without its options."""
    choices = {option.casefold().strip(" .") for option in (options or (answer,))}
    if choices <= _CLAIM_ANSWERS:
        return "claim check"
    return next((name for name, pattern in _COMPILED.items() if pattern.search(question[:_MAX_READ])), "other")
