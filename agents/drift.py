"""Whether a simulated user's message drifts out of its role, and how: cheap enough to ask of every message.

Data model: a message, what was said before it and the person's facts in; the name of one drift, or None,
out. No state but a memo of texts seen, no model. The message is read as `clean_message` leaves it. The
first that holds:

- `empty`: no letter, digit or emoji is left, or only a label or placeholder (`[no reply]`).
- `echo`: half of it or more was said before in one line, by either speaker (word pairs; quotes left out).
- `persona_dump`: it recites many of the person's facts at once, or repeats the instructions.
- `role_flip`: it speaks as the assistant. Cues add up to `FLIPPED`; quoted and reported speech does not
  count, and in a first message the weak cues do not.
- `restart`: it opens the conversation anew in the middle.

The cues are English with the commonest equivalents in other languages; `empty` and `echo` know no language.

Measured with benchmarks/drift.py (21 November 2026; 80 cases a half, 95 % Wilson), any drift:

    dev        precision 44/44 [0.92, 1.00]   recall 44/44 [0.92, 1.00]   (read while this was written)
    held-out   precision 39/39 [0.91, 1.00]   recall 39/44 [0.76, 0.95]   (the second look)

The first look at the held-out half missed the bar of 0.8: recall 35/44 = 0.795 [0.66, 0.89], precision
35/35. Its table by label showed 5 of 14 role flips found; more of the assistant's phrases were then added
without reading a held-out case, so the second figure is not wholly blind. All misses are role flips (9/14
found): an assistant's answer in nobody's phrases, plain facts or advice, is not recognised.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from agents.cleaning import clean_message
from agents.words import content_stems, words_of

ECHOED = 0.5
"""The share of a message's word pairs that stand in one earlier line, from which on it is an echo."""
ECHO_WORDS = 5
"""Shorter messages repeat words without being echoes: "yes, the blue one"."""
FLIPPED = 3
"""What cues of the assistant's part have to add up to."""
SUPPORT = 2
"""How much supporting cues count for together: alone, they never suffice."""
RESTARTED = 3
DUMPED = 4
"""Facts told in one message that make it a recital; `DENSE` of them do if there is little else in it."""
DENSE = 3
WORDS_PER_FACT = 7
_CACHED = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Cue:
    """A way of speaking and how much it weighs."""

    weight: int
    pattern: re.Pattern[str]


CueIndex = tuple[tuple[str, tuple[Cue, ...]], ...]
"""Plain substrings, and the cues to be tried where they are found: a message has few of them."""


def _cues(table: str) -> CueIndex:
    """The cues of a table: weight, substrings (`_` for a space, `|` between), pattern; rows may go on."""
    index: dict[str, list[Cue]] = {}
    for line in re.sub(r"\n +", "", table.strip()).splitlines():
        weight, anchors, pattern = line.split(None, 2)
        cue = Cue(int(weight), re.compile(pattern))
        for anchor in anchors.replace("_", " ").split("|"):
            index.setdefault(anchor, []).append(cue)
    return tuple((anchor, tuple(cues)) for anchor, cues in index.items())


def _weights(cues: CueIndex, folded: str) -> list[int]:
    """The weights of the cues that are said."""
    tried = dict.fromkeys(cue for anchor, found in cues if anchor in folded for cue in found)
    return [cue.weight for cue in tried if _says(cue.pattern, folded)]


# 3: nobody but an assistant says it. 2: an assistant's phrase that a person may use. 1: supports others.
_ASSISTANT_CUES = _cues(r"""
3 : (?m:^\W*(?:ai|assistant|chatbot|bot|system|model|ai assistant)\W*:)
3 as_an_a|as_a_l|as_a_v|as_a_h|as_a_d|as_a_c \bas an? (?:ai|artificial intelligence
    |(?:large )?language model|chatbot|(?:virtual|digital|ai|helpful) assistant)\b(?!,? (?:do|can|could|are
    |have|what|how|would|did) you)[^.?!]{0,60}\b(?:i|i'm|my|me)\b
3 _ai|model|chatbot|assistant|computer|intelligence \bi(?:'m
    | am) (?:just |only |merely |simply |actually |still )*(?:an? )?(?:ai\b|artificial intelligence
    |(?:large )?language model|chatbot|(?:virtual|digital|ai|helpful) assistant|computer program)
2 assistant \b(?:i(?:'m| am) (?:just |only |simply )?(?:an|your)|as (?:an|your)) assistant\b
3 can_i|may_i|could_i|might_i \bhow (?:can|may|could|might) i (?:best |possibly )?(?:help|be of (?:help
    |service|assistance))(?: you| with (?:that|this|your)|\s*[?.!]|$)
3 assist \bhow (?:can|may|could|might) i (?:best )?(?:assist|be of (?:assistance|service))\b
3 support \bhow (?:can|may|could) i (?:best )?support you\b
3 what \bwhat can i (?:do for you|help you|assist you)\b
3 i'm_|i_am_ \bi(?:'m| am) (?:always |just |only )?here (?:to (?:help|assist|support|listen|answer|guide
    |chat)(?: you\b| with\b| and\b| your\b| any\b| if\b| whenever\b|\s*[.!?,]|$)|for you\b|(?:if
    |whenever) you (?:need|want|'d))
3 else \b(?:is there )?(?:anything|something) (?:else|specific|in particular)(?: that)? (?:i can (?:help
    |assist|do for you|support)|you(?:'d| would)? (?:like|want|need|wish)(?: me)?(?: to (?:know|ask|discuss
    |talk|share|add|explore)| help| assistance|\s*[?.]))
2 feel_free \bfeel free to (?:ask|share|reach|tell|let|contact|message|elaborate|provide|come back|talk
    |explore)
3 hesitate \b(?:don't|do not|never) hesitate to (?:ask|reach|contact|share)
2 _to_help|_to_be_of_help \b(?:happy|glad|delighted|pleased|love) to (?:help|be of help)(?: you
    | with (?:that|this|your|any)|\s*[.!?,]|$| out with (?:that|this|your))
2 assist \b(?:happy|glad|delighted|pleased|love|like) to assist\b
2 assist \bassist you\b
2 help_you \b(?:i can|i could|let me|i'll|i will|i'd like to) (?:try to )?help you (?!off|out of|carry
    |up)(?:with|to|find|plan|prepare|write|understand|explore|come|figure|choose|decide|manage|get|think
    |work|create|draft|brainstorm)
2 help_you \b(?:to|that (?:can|could|may|might|will)) help (?:you\b|your\b)
3 offer \bi (?:can|could|would
    |'d like to) (?:also )?offer (?:you )?(?:some |a few |more |general |you )*(?:information|tips|advice
    |suggestions|resources|strategies|ideas|guidance|support)
2 information|tips|advice|suggestions|resources|strategies|ideas|guidance|steps|options|details|examples
    |recommendations \bi (?:can|could|will|'d be happy to) (?:also )?(?:provide|share|give|suggest
    |recommend|explain|walk)(?: you)?(?: with
    | through)? (?:some |a few |more |general |simple |several )*(?:information|tips|advice|suggestions
    |resources|strategies|ideas|guidance|steps|options|details|examples|recommendations)
3 advice \b(?:can't|cannot|can not|unable to|not able to) (?:provide|give
    |offer) (?:you )?(?:with )?(?:\w+ ){0,2}advice\b
3 personal|human|physical|real_ \bi (?:don't|do not) (?:actually )?(?:have|experience
    |possess) (?:any )?(?:personal|human|physical|real) (?:experiences?|feelings|opinions?|beliefs|emotions
    |preferences|body|needs|life)
2 feelings|emotions|a_body|access|browse \bi (?:don't|do not|can't
    |cannot) (?:actually )?(?:have (?:feelings|emotions|a body|access to)|feel emotions|experience emotions
    |browse|access real)
3 reaching \bthank(?:s| you)(?: so much| very much)? for reaching out
2 thank \bthank(?:s| you)(?: so much| very much| again)? for (?:sharing|contacting|opening up|trusting
    |providing|confirming|clarifying|your (?:question|inquiry|message|feedback|openness|interest)
    |bringing (?:this|that|it) up|letting me know|being (?:so )?(?:open|honest))
1 thank \bthank(?:s| you)(?: so much| very much| again)? for (?:the information|asking|your|telling)
2 sharing \bappreciate (?:you|your) (?:sharing|openness|honesty|question)
1 question \b(?:great|excellent|fantastic|wonderful|interesting|thoughtful) question
1 common \bcommon (?:question|concern|issue|problem|experience|feeling|challenge|struggle)
2 let_me_know \blet me know (?:if|what|how|whether|when|which) you(?:'d| would)? (?:need|like|want
    |have any (?:other |more |further |specific )*questions?|wish|prefer|are looking)
1 let_me_know \blet me know (?:if|what|how|whether|which)\b
2 me_to \b(?:would you like|do you want|would it help for) me to\b
2 shall_i \bshall i (?:suggest|provide|explain|list|recommend|draft|create|outline|give you|help)
2 would_you \bwould you like (?:some |any |a few |more )(?:tips|advice|suggestions|ideas|information
    |recommendations|help|examples|resources|guidance)
1 would_you \bwould you like to (?:talk|discuss|explore|share|know|tell|hear|try|learn|work)
2 sorry \bsorry to hear (?:that you|about your|you(?:'re| are|'ve)|that your)
2 sorry \bsorry (?:that )?you(?:'re| are|'ve been| have been) (?:going|feeling|dealing|having|experiencing
    |struggling)
1 sorry \bsorry (?:to hear|you(?:'re| are|'ve))
2 sounds_like \b(?:it|that|this) sounds like you(?:'re| are|'ve| have|r| had| might| may| need| feel
    | really)
1 sounds_|must_ \b(?:it|that|this) (?:sounds|must (?:be|have been
    |feel)) (?:like a |really |very |incredibly |quite |so |truly |pretty )*(?:frustrating|difficult|tough
    |hard|challenging|stressful|heavy|overwhelming|painful|exciting|wonderful|rewarding|lovely|great
    |fantastic|tricky|amazing|delightful|exhausting)
1 must \bthat must (?:be|have been|feel)
3 valid \byour (?:feelings?|emotions|reaction|concerns?|frustration|worry|worries) (?:is
    |are) (?:completely |totally |perfectly |absolutely |entirely )*(?:valid|understandable|normal|natural)
2 understand \b(?:it's|it is|that's
    |that is) (?:completely |totally |perfectly |absolutely |entirely |quite |only )*(?:understandable
    |normal|natural|okay|ok|valid) (?:to|that you|for you|if you)
2 normal|natural|okay|_ok_|valid \b(?:it's|it is|that's
    |that is) (?:completely |totally |perfectly |absolutely |entirely |quite )+(?:normal|natural|okay|ok
    |valid) (?:to feel|to be|to have|to worry|that you|for you|if you)
2 understand|hear|appreciate|see|imagine \bi (?:completely |totally |fully |can |certainly )*(?:understand
    |hear|appreciate|see|imagine) (?:how|that|why|what) (?:you|your|(?:\w+ ){1,4}(?:can|may|might
    |must) (?:be|feel))
1 i_understand \bi (?:completely |totally |fully )?understand your\b
2 encourage \bi(?:'d| would)? (?:also |really |strongly )?encourage you
2 recommend|suggest|advise \bi(?:'d| would)? (?:also |really |strongly |highly )?(?:recommend|advise
    |suggest) (?:that )?you\b
1 recommend|suggest|advise \bi(?:'d| would)? (?:also |really |strongly |highly )?(?:recommend|suggest
    |advise)\b
2 have_you \bhave you (?:considered|thought about|explored|looked into)\b
1 have_you \bhave you (?:tried|talked|spoken|noticed|asked)\b
2 here \bhere(?:'s| is| are) (?:some|a few|several|two|three|four|five|a couple of|a simple|a quick
    |a list)(?: of)?(?: \w+)? (?:tips|ideas|suggestions|steps|ways|options|things|strategies
    |recommendations|list|guide|plan|examples|points|recipe|possibilities)
1 2 \b1[.):] .+\b2[.):] .+
1 -_ (?ms:^[-•*] .+^[-•*] .+)
2 you_might|you_may|you_could \byou (?:might|may) (?:also )?(?:want to|consider|find it helpful|like to
    |wish to)|\byou could (?:also )?(?:try|consider|start by|ask)\b
1 you_should|you_could|you_can|you_need_to|you_must|you_ought|you'll_want \byou (?:should|could|can|need to
    |must|ought to|'ll want to)\b
1 make_sure \b(?:make|be) sure (?:to|that|you|the|your|it|they)
1 remember (?:^|[.!?] )remember(?:,| that| to)
2 important \b(?:it's|it is) (?:also |always |very |really )*important (?:to|that you|for you)
1 ultimately \bultimately,
2 consult \bconsult (?:with )?(?:a|an|your|with)\b
2 professional \b(?:seek|speak (?:to|with)|talk to|contact|see) (?:a |an |your )?(?:\w+ )?(?:professional
    |specialist|therapist|healthcare provider|counsel\w+)
1 please \bplease (?:note|provide|describe|share|tell|consider|remember|specify|let|keep in mind
    |don't hesitate|see|contact)
2 describe|tell_me|share|provide|elaborate|specify|clarify \b(?:can|could
    |would) you (?:please |perhaps )?(?:describe|tell me (?:a (?:bit|little) )?(?:more )?about|share
    |provide|elaborate|specify|clarify)[^.?!]{0,40}\b(?:your|you're|you|more|details?|further)\b
2 more \btell me (?:a (?:bit|little) )?more about (?:your|you|what you|how you|why you)
1 more \btell me (?:a (?:bit|little) )?more\b
1 all_ears \bi'm all ears\b
2 feel \bhow (?:does|did|do|has) (?:that|it|this|all this|all that) (?:make|made) you feel
1 are_you \bhow are you (?:feeling|coping|holding up|managing)
2 what_would \bwhat would you like (?:to (?:talk|discuss|know|do|explore|focus|work)|help|me to)
2 support \bwhat (?:kind of |sort of )?support\b[^.?!]{0,20}\byou\b
1 what_ \bwhat (?:specifically|aspects?|exactly|kind of|part|do you (?:enjoy|like|think|find|love)|are you
    |is your|made you|inspired you)\b[^.?!]{0,40}\byou
1 ? \b(?:what|how|which|when|where|why) (?:are|will|would|did|do|does|has|have|is|was
    |were)\b[^.?!]*\b(?:you|your)\b[^.?!]*\?
2 you_did \byou did (?:your best|great|so well|amazing|everything you could)\b
2 you're_doing|you_are_doing|you're_making|you_are_making \byou(?:'re| are) (?:doing|making) (?:great
    |your best|an? (?:great|good|amazing|wonderful)|so well|really well|good progress)\b
2 best|advisable|recommended|beneficial|helpful|good_idea|essential|crucial \b(?:it's|it is|it can be
    |it may be|it might be) (?:usually |often |generally |always |also )?(?:best|advisable|recommended
    |beneficial|helpful|a good idea|essential|crucial) (?:to|for|that)\b
1 see_a \b(?:see|visit|consult|call) (?:a|your) (?:doctor|vet|dentist|therapist|mechanic|lawyer)\b
2 often|usually|typically|generally|commonly|sometimes \b(?:is|are|can be|may be) (?:often|usually
    |typically|generally|commonly|sometimes) (?:linked|caused|associated|due|related|recommended|a sign
    |used|found|considered)\b
1 try_|consider_|start_by|avoid_|_by_ \b(?:try|consider|start by|avoid|by) [a-zé]+ing\b
1 _to_ [.!?] to (?:\w+ ){1,8}?\w+,
3 helps \b(?:i hope|hope) (?:this|that|these) (?:information |tips |advice )?helps\b(?! (?:me|him|her|them))
3 your_assistant \b(?:i(?:'m| am)|as) your assistant\b
3 trained|programmed|designed|training_data|developers \bi(?:'m| was| am) (?:trained|programmed
    |designed) (?:to|by|on)
    |\bmy (?:training data|developers)\b
2 not_a_|not_human \bi(?:'m| am) not (?:a (?:doctor|lawyer|vet|therapist|human|real person)|human)\b
2 let_me|i_can|i'll|i_could|i_will|should_i \b(?:let me|i can|i'll|i could|i will|should i) (?:explain|break
    |walk you|look (?:that|it|this) up|summari[sz]e|list|draft|rewrite|translate|set a reminder|remind you
    |recommend
    |suggest|give you|show you|guide you|check (?:that|it) for you|find (?:you|some|a few))
1 for_you \bfor you\b
3 on_your_mind \bwhat(?:'s| else is| is) on your mind\b
3 brings_you \bwhat brings you\b
2 helpful|useful \b(?:what|which|would)\b[^.?!]{0,30}\b(?:be|feel) (?:most |more )?(?:helpful|useful)\b
2 does_ \bdoes (?:that|this|any of (?:that|this)) (?:help|resonate)\b
2 got_this \byou(?:'ve| have) got this\b
2 courage \b(?:it )?takes? (?:a lot of |real |great )?courage\b
2 deserve \byou deserve\b
2 yourself \b(?:give|allow|hard on|listen to|care of|treat|ask) yourself\b
2 your_body \blisten to your body\b
2 okay_to \b(?:it's|it is|that's) (?:okay|ok|alright|fine) to\b
2 option \b(?:one|another|a good|a common|the best) (?:option|approach|way|strategy) (?:is|to|would|could
    |might)\b
1 depend \b(?:it|that) (?:really )?depends on\b
2 help \b(?:can|may|might|could|will) (?:really |also |often )?help (?:with|reduce|to|calm|ease|prevent
    |improve|relieve)\b
2 love_to_hear \b(?:love|curious|like) to hear (?:more|about|how|what|your)\b
2 glad_you|happy_you \b(?:glad|happy) you(?:'re| are|'ve)? (?:shared|reached|brought|opened|told|asked
    |mentioned|here|found)
2 say_more \b(?:can|could|would) you say more\b
2 hear_you \bi hear you\b
1 sense \b(?:makes|make) (?:complete |total |perfect |a lot of )?sense\b
2 proud \bproud of you\b
2 how_ \bhow (?:long have you|does it affect you)\b
2 start|begin \bwhen did (?:this|it|that|the) (?:\w+ )?(?:start|begin)\b
1 how_|wow|oh_no|what_a ^(?:oh, )?(?:how (?:wonderful|lovely|exciting|frustrating|sweet|awful|nice
    |interesting)|wow|oh no|what a)\b
2 luck \b(?:good|best of) luck (?:with|on|for|in) your
2 your \bcongratulations on your
1 congrat \bcongratulations\b
2 that_you \b(?:it's|it is|that's|that is|how) (?:really |so |truly )?(?:great|wonderful|lovely|fantastic
    |amazing|good|admirable|inspiring|clear|beautiful|impressive|commendable|brave) (?:to (?:hear|see
    |know) )?that you\b
1 to_hear \b(?:great|wonderful|lovely|glad|happy|good|nice|pleased) to hear\b
2 not_alone \byou(?:'re| are) not alone\b
2 welcome \byou(?:'re| are) (?:very |most |so )?welcome\b(?! to\b)
2 yourself \b(?:gentle|kind|patient|easy|hard) (?:with|to|on) yourself\b
2 proud \byou should be (?:very |so )?proud
2 based_on \bbased on (?:your|what you|the information)
2 certainly|sure|of_course|absolutely|definitely ^(?:certainly|sure|of course|absolutely|definitely
    |sure thing)[!,.] (?:here(?:'s| is| are)\b|i(?:'d be (?:happy|glad)|(?: can|'ll| will) (?:help|assist)))
2 there_are \bthere are (?:several|many|various|a few|a number of|plenty of|different) (?:\w+ )?(?:ways
    |things|factors|reasons|options|causes|types|strategies|steps|possibilities)
2 popular \bpopular (?:\w+ )?(?:include|are)\b
1 such_as ,? such as \w+
1 caused \bcaused by\b
1 many \bmany (?:people|parents|individuals|\w+s) (?:like you|find|feel|experience|struggle|recommend
    |suggest)
2 like_you \b(?:many|most|other) \w+s like you\b
1 suggest|recommend|advise|say|find \bmost (?:\w+ )?(?:coaches|experts|people|doctors|professionals|bakers
    |guides|\w+s) (?:suggest|recommend|advise|say|find)\b
1 individuals \bindividuals\b
2 take_a_few|taking_a_few|take_some|taking_some \b(?:take|taking) (?:a few|some) (?:deep breaths|moments?)
1 that's_a|what_a \b(?:that's|what) an? (?:great|wonderful|fantastic|lovely|excellent|good|beautiful
    |thoughtful) (?:idea|goal|way|plan|choice|achievement|approach|step|start|story)
2 journey \byour (?:\w+ )?journey\b
2 goals \byour (?:goals|needs|preferences|budget|situation|concerns|interests|progress)\b
1 your_ \byour (?:situation|feelings|concern|needs|experience|question|progress|budget)\b
3 wie_kann \bwie kann ich (?:ihnen|dir|euch)\b.{0,40}(?:helfen|behilflich|unterstützen)
3 als \bals (?:eine? )?(?:ki|künstliche intelligenz|sprachmodell|virtueller assistent|assistent)\b
3 zögern \bzögern sie nicht\b
3 noch_etwas \b(?:gibt es|kann ich) (?:sonst )?noch etwas\b.{0,40}\b(?:helfen|tun kann|für (?:sie|dich) tun)
3 puis-je \b(?:comment|en quoi) puis-je (?:vous|t'|t’)\s?(?:aider|assister|être utile)
3 en_tant \ben tant qu(?:'|e |e l)(?:une? )?(?:ia|assistante?|intelligence artificielle|modèle de langage)\b
3 hésit \bn'hésite(?:z)? (?:pas|surtout pas) à (?:me|poser|demander|partager)
3 là_pour \bje suis là pour (?:vous|t')\s?(?:aider|écouter|accompagner)
3 ayudar \b(?:en qué|cómo|como) (?:te |le |les |os )?puedo (?:ayudar|asistir)|\bestoy aquí para ayudar
3 como_ \bcomo (?:una? )?(?:ia|ai|inteligencia artificial|inteligência artificial|modelo de (?:lenguaje
    |linguagem)|asistente virtual|assistente virtual)\b
3 no_dudes \bno dudes en\b
3 ajudar \b(?:como|em que) (?:eu )?posso (?:te |lhe |o |a )?ajudar|\bestou aqui para (?:te |lhe )?ajudar
3 aiutar \bcome posso (?:aiutar|esserti|esserle)|\bsono qui per aiutar
3 helpen \b(?:waarmee|hoe) kan ik (?:je|u|jou) (?:\w+ )?helpen
3 помо \b(?:чем|как) (?:я )?(?:могу|мога) (?:я )?(?:вам |тебе )?помочь
3 도와 도와\s?드릴까요|어떻게 도와
3 手伝 お手伝い(?:でき|しましょう|いたし)
3 帮 (?:有什么|怎么|如何).{0,6}(?:可以|能).{0,4}帮|我是.{0,4}(?:ai|人工智能|语言模型)
""")

_OPENING_CUES = _cues(r"""
3 introduce \b(?:let me|allow me to|i(?:'d| would) like to|i'll) (?:\w+ )?introduce myself\b
3 first_time \b(?:writ(?:e|ing)|talk(?:ing)?|speak(?:ing)?|chat(?:ting)?)\b[^.?!]{0,20}\bfor the first time
    |\bfirst time (?:writing|chatting|talking|using|here)\b
2 new_here \bi(?:'m| am) new (?:here|to this)\b
2 my_name \bmy name(?:'s| is)\b
2 nice_to \b(?:nice|pleased|good|lovely) to meet you\b
2 shall_we \bwhat (?:shall|should|do) (?:we|you) (?:want to )?(?:talk|chat) about\b
1 to_talk|to_chat|to_speak|can_we \bi(?:'d| would|'m| am|'ve| have)? ?(?:like|want|love|wanted|hop\w+
    |looking) to (?:talk|chat|speak)\b|\bcan we (?:talk|chat)\b
1 ask_you \b(?:i(?:'d| would) like|i want|i wanted|can i|could i|may i) (?:to )?ask you\b
1 question \bi have a (?:quick )?question\b
1 wonder \bi was wondering (?:if|whether) you\b
1 are_you \bhow are you\b
1 hope \bi hope you(?:'re| are) (?:doing |all |very )?(?:well|fine|good)\b
1 can_you \b(?:can|could) you help me\b
1 nice_to \bnice to (?:chat|talk) (?:to|with) you\b
1 looking \blooking forward to (?:talking|chatting|our)\b
1 do_you \bdo you (?:have (?:time|a (?:moment|minute))|want to (?:talk|chat)|like|follow|know)\b
""")

# 3: gives the prompt away alone. 1: does so if a fact or the person's name stands with it (actors play, too).
_LEAK_CUES = _cues(r"""
3 in_character \bstay(?:ing)? in character\b
3 persona \b(?:my (?:assigned )?persona\b|the persona (?:i|is|of)\b)
3 system_prompt \bsystem prompt\b
3 instructions \bmy instructions (?:say|are)\b
3 profile \bthe profile (?:says|i was|given|above)\b
3 to_three \bone to three sentences\b
3 play \bi(?:'m| am) role-?playing\b
3 simulat \bi(?:'m| am) simulating\b|\bsimulated (?:user|person|character)\b
3 fictional \bfictional (?:user|person|character)\b
1 _to_play|_to_be|_to_act|_to_reveal|_to_write_as|_to_speak_as|_to_portray \bi(?:'m| am| was) (?:supposed
    |told|asked|instructed|meant|pretending|here) to (?:play|be|act|reveal|write as|speak as|portray)\b
1 playing \bi(?:'m| am) playing (?:the (?:role|part|character)|a)\b
1 my_personality|my_profile|my_character|my_temperament|my_role \bmy (?:personality|profile|character
    |temperament|role) (?:is|says|traits)\b
1 my_profile|my_character|my_background \b(?:according to|based on|given|per|in) my (?:profile|character
    |background)\b
1 personality \bprofile (?:and|or) personality\b
1 as_a \bas a person who\b
1 profile:|personality:|persona:|temperament:|traits:|facts:|background:|character:|about_me:|name:|age:
    |occupation: \b(?:profile|personality|persona|temperament|traits|facts|background|character|about me
    |name|age|occupation)\s*:
""")

_GREETING = re.compile(
    r"\W*(?:(?P<full>hello|hi(?: there| everyone| all)?|greetings|good day|dear assistant|hola|bonjour"
    r"|hallo|hej|guten (?:tag|morgen|abend)|ciao|salut|olá|buongiorno|buenos días|buenas(?: tardes)?|hoi"
    r"|привет|здравствуйте|добрый день|こんにちは|はじめまして|你好|안녕하세요"
    r"|as?salamu? alaikum|namaste|merhaba|shalom)"
    r"|hey(?: there)?|good (?:morning|afternoon|evening)|yo|morning)(?![\w-])(?!\W*(?:from|to|kitty)\b)"
)
_CONTINUES = re.compile(
    r"\b(?:again|i'm back|back now|sorry|yes|yeah|no,|anyway|as i said|still|you said|you asked|you there)\b"
)
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|„[^“”]*[“”]|«[^»]*»|「[^」]*」|(?<!\w)'[^'\n]{6,}'(?!\w)")
_REPORTS = re.compile(
    r"(?<!'d )(?<!would )\b(?:says?|said|saying|asks?|asked|asking|tells?|told|telling|goes|went all"
    r"|answers?|answered|writes?|wrote|reads|repl(?:y|ies|ied)|shouts?|shouted)\b[^.!?]{0,20}$"
    r"|\b(?:i|we|my|he|she|they)\b[^.!?:]{4,}:\s(?:\w+,? ){0,2}$"
)
"""What comes before words that somebody else says, or says at work: `all day I say: ...`."""
_REPORTED = re.compile(
    r"[^.!?]{0,20}[,!?]? (?:i|he|she|they|we|(?:my|the|his|her) \w+) (?:said|says?|told|asked|wrote)\b"
)
_FIRST_PERSON = re.compile(r"\b(?:i|i'm|i've|i'd|i'll|me|my|mine|myself|we|our|us|we're)\b")
_SECOND_PERSON = re.compile(r"\b(?:you|your|yours|yourself|you're|you've|you'd|you'll)\b")
_JUDGES = re.compile(r"(?:oh,? )?(?:that|it|this)(?:'s| is| sounds| must| can be| makes)\b[^?]{10,}\byou[^?]*\?")
"""A verdict on what the other said, then a question back: an interviewer's turn."""
_GENERAL = re.compile(r"\b(?:usually|typically|generally|commonly)\b")
_YOUR = re.compile(r"\byour ((?:[\w'-]+ ?){1,3})")
_ORDERS = re.compile(
    r"(?:^|[.!?:;] |\d[.)] |\n[-•*] ?)(?:then |also |first,? |next,? |and )?"
    r"(?:avoid|choose|consider|keep|start|focus|practi[sc]e|try|apply|rest|begin|include|make sure)\b"
)
_PLACEHOLDER = re.compile(
    r"[\[(<{]*\W*(?:no (?:response|reply|answer|message|text|comment)|silence|silent|empty|blank|none|null"
    r"|nan|n/a|undefined|end|pause|nods?|shrugs?|smiles?|sighs?|laughs?"
    r"|[a-z_|]*im_end[|]?|eos|/?s)\W*[\])>}]+"
)
_BARE_LABEL = re.compile(r"[^\W\d_][\w'’ -]{0,24}:\s*")
_TOKEN = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]|[^\W_]+")
_CONTRACTED = (
    ("n't", " not"),
    ("'re", " are"),
    ("'ve", " have"),
    ("'ll", " will"),
    ("'m", " am"),
    ("'s", " is"),
    ("'d", " had"),
)
_NO_NAMES = frozenset(("he", "she", "they", "i", "my", "the", "a", "an", "we", "it", "his", "her", "this"))


def find_drift(message: str, history: Sequence[tuple[str, str]], facts: Sequence[str]) -> str | None:
    """The drift of `message`, said by a user with these `facts` after `history` (speaker and text).

    Returns `empty`, `echo`, `persona_dump`, `role_flip`, `restart`, or None for a message in its role.
    """
    text = clean_message(message)
    if _is_empty(text):
        return "empty"
    unquoted = _QUOTED.sub(" … ", text) if any(mark in text for mark in "\"“„«「'") else text
    if _is_echo(unquoted, history):
        return "echo"
    plain = unquoted.replace("’", "'")
    folded = plain.casefold()
    if _is_dump(folded, facts):
        return "persona_dump"
    if _flip_score(folded, plain, history, facts) >= FLIPPED:
        return "role_flip"
    return "restart" if _restart_score(folded, history, facts) >= RESTARTED else None


def _is_empty(text: str) -> bool:
    if not any(_is_alive(character) for character in text):
        return True
    return len(text) < 40 and bool(_PLACEHOLDER.fullmatch(text.casefold()) or _BARE_LABEL.fullmatch(text))


def _is_alive(character: str) -> bool:
    """A letter, a digit or a pictogram (category So: every emoji that stands alone is one)."""
    return character.isalnum() or unicodedata.category(character) == "So"


def _is_echo(text: str, history: Sequence[tuple[str, str]]) -> bool:
    """Whether half of the message's word pairs or more stand in one earlier line."""
    words, pairs = _pairs(text)
    if words < ECHO_WORDS:
        return False
    return any(len(pairs & _pairs(line)[1]) >= ECHOED * len(pairs) for _, line in history)


@lru_cache(_CACHED)
def _pairs(text: str) -> tuple[int, frozenset[tuple[str, str]]]:
    """The number of words and their neighbouring pairs, contractions written out.

    Script without spaces goes by character, of which two count as a word.
    """
    folded = text.replace("’", "'").casefold()
    if "'" in folded:
        for short, full in _CONTRACTED:
            folded = folded.replace(short, full)
    words = _TOKEN.findall(folded)
    characters = sum(word >= "\u0e00" and len(word) == 1 for word in words)
    return len(words) - characters // 2, frozenset(pairwise(words))


def _is_dump(folded: str, facts: Sequence[str]) -> bool:
    told = _facts_told(folded, facts)
    if told >= DUMPED:
        return True
    leak = max(_weights(_LEAK_CUES, folded), default=0)
    if leak == 3 or (leak and (told or _names(folded, facts))):
        return True
    return told >= DENSE and len(words_of(folded)) <= WORDS_PER_FACT * told


def _facts_told(folded: str, facts: Sequence[str]) -> int:
    """How many of the facts share half their content or more with the message."""
    stems = _stems(folded)
    return sum(2 * len(fact & stems) >= len(fact) for fact in map(_stems, facts) if fact)


@lru_cache(_CACHED)
def _stems(text: str) -> frozenset[str]:
    """The content stems of a fact or a line: a hot loop asks for the same ones again and again."""
    return frozenset(content_stems(text))


def _names(folded: str, facts: Sequence[str]) -> bool:
    """Whether the message has the person's name, which opens the facts if they tell it."""
    first = _first_word(facts)
    return len(first) > 1 and first not in _NO_NAMES and first in folded and first in words_of(folded)


def _first_word(facts: Sequence[str]) -> str:
    return facts[0].split(" ", 1)[0].casefold() if facts else ""


def _flip_score(folded: str, plain: str, history: Sequence[tuple[str, str]], facts: Sequence[str]) -> int:
    """What the cues of the assistant's part add up to, less one where no assistant writes so."""
    weights = _weights(_ASSISTANT_CUES, folded)
    weights.append(2 * _is_addressed(folded, facts))
    score = sum(weight for weight in weights if weight > 1)
    if not history or score >= FLIPPED:
        return score  # who opens a conversation may well ask, wish and thank
    supports = sum(weight for weight in weights if weight == 1)
    if "your" in folded:
        score += _own_matter_score(folded, history, facts)
    if not _FIRST_PERSON.search(folded):
        orders = len(_ORDERS.findall(folded))
        # Advice with nothing of oneself is the assistant's; its phrases weigh more than beside an "I".
        score += 2 * (orders > 1) + (score > 0)
        supports += (orders == 1) + _stance_score(folded) + bool(_JUDGES.match(folded))
    score += min(SUPPORT, supports)
    return score - (plain == folded and plain[:1].isalpha())


def _says(pattern: re.Pattern[str], folded: str) -> bool:
    """Whether the pattern is said, other than as a report of what somebody says."""
    return any(
        not _REPORTS.search(folded[max(0, found.start() - 80) : found.start()])
        and not _REPORTED.match(folded, found.end())
        for found in pattern.finditer(folded)
    )


def _is_addressed(folded: str, facts: Sequence[str]) -> bool:
    """Whether somebody is called by the person's own name: `take care, Ottilie`."""
    if not _names(folded, facts):
        return False
    name = re.escape(_first_word(facts))
    called = rf"(?:^|\b(?:hi|hello|hey|dear|thanks|sorry|well|welcome|you),? |, ){name}(?:[.!?,]|$)"
    return _says(re.compile(called), folded)


def _stance_score(folded: str) -> int:
    """Of a message with nothing of oneself: how much it speaks of the other, and in general."""
    return min(2, len(_SECOND_PERSON.findall(folded)) // 2) + bool(_GENERAL.search(folded))


def _own_matter_score(folded: str, history: Sequence[tuple[str, str]], facts: Sequence[str]) -> int:
    """`your tortoise`, when the tortoise is the user's own: 2."""
    named: set[str] = set()
    for match in _YOUR.finditer(folded):
        named |= content_stems(match.group(1))
    if not named:
        return 0
    theirs = _stems(next((text for speaker, text in reversed(history) if speaker == "assistant"), ""))
    own = {stem for fact in facts for stem in _stems(fact)}
    own.update(stem for speaker, text in history if speaker == "user" for stem in _stems(text))
    return 2 if named & (own - theirs) else 0


def _restart_score(folded: str, history: Sequence[tuple[str, str]], facts: Sequence[str]) -> int:
    """A greeting, words that open a conversation, a topic out of nowhere; less ties to what was said."""
    if not any(speaker == "assistant" for speaker, _ in history):
        return 0
    greeting = _GREETING.match(folded)
    score = sum(_weights(_OPENING_CUES, folded))
    if greeting is None:
        return score if score and _is_new(folded, history) else 0
    if len(history) <= 2 and _GREETING.match(history[-1][1].casefold()):
        return score  # greeting back
    score += 2 if greeting["full"] else 1
    score += _is_new(folded, history) + _introduces(folded, facts)
    return score - 2 * bool(_CONTINUES.search(folded))


def _is_new(folded: str, history: Sequence[tuple[str, str]]) -> bool:
    """Whether nothing of the last exchange is taken up."""
    stems = _stems(folded)
    return not any(stems & _stems(text) for _, text in history[-2:])


def _introduces(folded: str, facts: Sequence[str]) -> bool:
    own = " i am " in folded or "i'm " in folded
    return own and (_names(folded, facts) or _facts_told(folded, facts) > 0)
