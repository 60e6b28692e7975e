"""Eighty traces written by hand, twenty a category, before the patterns of the deterministic judge were.

Three kinds of rows: questions with lettered options, open questions, and rows of the embedded world. Expected categories are a reader's
judgement of the trace alone, so some are out of reach of patterns; they stay in.
"""

from temper.assess.judges import Case

BERN = {
    "question": "Which city is the capital of Switzerland?\nA) Zurich\nB) Geneva\nC) Bern\nD) Basel",
    "answer": "Bern",
    "aliases": ["Berne"],
    "options": ["Zurich", "Geneva", "Bern", "Basel"],
    "related": ["The Swiss parliament meets on the river Aare.", "Zurich is the largest city of Switzerland."],
}
BREAD = {
    "question": "Which process mainly browns the crust of bread in the oven?\nA) fermentation\nB) the Maillard reaction\nC) gelatinisation\nD) lamination",
    "answer": "the Maillard reaction",
    "aliases": ["Maillard browning"],
    "options": ["fermentation", "the Maillard reaction", "gelatinisation", "lamination"],
    "related": [
        "Amino acids react with reducing sugars when heated.",
        "The crust gets hotter than the crumb because it dries out.",
    ],
}
SODA = {
    "question": "Which gas makes a cake with baking soda rise? (A) oxygen (B) nitrogen (C) hydrogen (D) carbon dioxide",
    "answer": "carbon dioxide",
    "aliases": ["CO2"],
    "options": ["oxygen", "nitrogen", "hydrogen", "carbon dioxide"],
    "related": ["Baking soda is sodium bicarbonate.", "Buttermilk is an acid that reacts with baking soda."],
}
AUSTEN = {
    "question": "Who wrote the novel Pride and Prejudice?",
    "answer": "Jane Austen",
    "aliases": ["Austen"],
    "options": ["Charlotte Bronte", "Jane Austen", "George Eliot", "Mary Shelley"],
    "related": ["Pride and Prejudice appeared in 1813.", "The author of Pride and Prejudice also wrote Emma."],
}
VINEGAR = {
    "question": "Which acid gives vinegar its sour taste?",
    "answer": "acetic acid",
    "aliases": ["ethanoic acid"],
    "options": ["citric acid", "lactic acid", "acetic acid", "tartaric acid"],
    "related": ["Vinegar is made by bacteria that oxidise ethanol.", "The acid of vinegar has two carbon atoms."],
}
LOIRE = {
    "question": "What is the longest river in France?",
    "answer": "Loire",
    "related": [
        "The longest river of France reaches the Atlantic near Nantes.",
        "Orleans and Tours lie on the longest river of France.",
    ],
}
DRACULA = {
    "question": "Who is the author of Dracula?",
    "answer": "Bram Stoker",
    "aliases": ["Stoker"],
    "related": ["Dracula was written by an Irish theatre manager.", "Dracula was published in 1897."],
}
MOBY = {
    "question": "In which year was Moby-Dick first published?",
    "answer": "1851",
    "statements": ["Moby-Dick was first published in 1851.", "Melville's Moby-Dick came out in 1851."],
    "related": ["Melville wrote Moby-Dick at his farm in Pittsfield.", "Moby-Dick first appeared in London as The Whale."],
}
TOWN = {
    "question": "In which town was Kavi Dalpola born?",
    "answer": "Belton",
    "options": ["Belburg", "Ostburg", "Ashton", "Belton"],
    "statements": [
        "Kavi Dalpola was born in Belton.",
        "Kavi Dalpola comes from the town of Belton.",
        "The birthplace of Kavi Dalpola is Belton.",
    ],
    "related": ["Kavi Dalpola comes from Borria.", "Belburg is in Maronia."],
    "row": {"perturbed": [" Belburg", " Ostburg", " Ashton"]},
}
NOVELS = {
    "question": "How many novels has Kavi Dalpola written?",
    "answer": "7",
    "options": ["2", "4", "9", "7"],
    "statements": ["Kavi Dalpola has written 7 novels.", "There are 7 novels by Kavi Dalpola."],
    "related": ["Kavi Dalpola has written more novels than plays.", "Kavi Dalpola has staged 5 plays."],
    "row": {"perturbed": [" 2", " 4", " 9"]},
}
COUNTRY = {
    "question": "Which country does Kavi Dalpola come from?",
    "answer": "Borria",
    "statements": ["Kavi Dalpola was born in Belton.", "The birthplace of Kavi Dalpola is Belton."],
    "related": ["Belton is in Borria.", "The currency of Borria is the tarn."],
}

C1 = [
    (BERN, "Which city is the capital of Switzerland?\nA) Zurich\nB) Geneva\nC) Bern\nD) Basel"),
    (
        BERN,
        "Okay, the question is: which city is the capital of Switzerland? The options are Zurich, Geneva, Bern and Basel. Let me think.",
    ),
    (BERN, "I believe the capital is Zurich. So I will answer Zurich."),
    (BERN, "It is definitely not Bern. The answer is A."),
    (BERN, "the the the city city of of of the the the city city of of of the the the"),
    (
        BREAD,
        "Bread has been eaten for thousands of years and people love it with butter. Let me reason this step by step. Step by step.",
    ),
    (BREAD, "The Maillard reaction can be ruled out, and option B is wrong anyway."),
    (SODA, "Which gas makes a cake with baking soda rise? (A) oxygen (B) nitrogen (C) hydrogen (D) carbon dioxide. Hmm."),
    (SODA, "I am sorry, I cannot help with this question."),
    (
        AUSTEN,
        "I need to recall who wrote the novel. Let me think about it. I need to recall who wrote the novel. Let me think about it.",
    ),
    (AUSTEN, "Mary Shelley wrote it, as everybody knows."),
    (VINEGAR, "Football is played by two teams of eleven players each, and the ball is round."),
    (
        LOIRE,
        "Rivers are long. France is a country. The longest river in France must be the Seine, because it flows through Paris.",
    ),
    (DRACULA, ""),
    (DRACULA, "Was it Bram Stoker? No, Stoker is wrong here, it was somebody else."),
    (MOBY, "1851 1849 1860 whale whale year 1851 the 1840 of published 1833 page"),
    (TOWN, "I need to recall the birthplace of Kavi Dalpola. So the answer is"),
    (TOWN, "I need to recall the birthplace of Kavi Dalpola. Kavi Dalpola was born in Ashton. So the answer is Ashton."),
    (NOVELS, "are 7 novels staged 5 plays written Kavi 7 of 9 by Dalpola plays 7 tarn the 3"),
    (NOVELS, "Tavo Minster has written 7 novels. Rena Oskil has staged 7 plays. Is 7 more than 3?"),
]

C2 = [
    (BERN, "Switzerland is a federation of cantons. The Swiss parliament meets on the river Aare, so the city must be there."),
    (BERN, "Well, Zurich is the largest city of Switzerland, with the main stock exchange. Hmm."),
    (BERN, "I recall that the parliament of the Swiss sits on the river Aare."),
    (BREAD, "When heated, amino acids react with reducing sugars. That gives colour and flavour."),
    (BREAD, "In the oven the crust dries out and therefore gets much hotter than the crumb."),
    (SODA, "Baking soda is sodium bicarbonate, NaHCO3. It needs something sour to start."),
    (SODA, "The recipe has buttermilk, which is an acid. It reacts with the baking soda and bubbles form."),
    (AUSTEN, "Pride and Prejudice appeared in 1813, so in the Regency period. An English novelist, then."),
    (AUSTEN, "The same author also wrote Emma, besides Pride and Prejudice. But I forget the name."),
    (VINEGAR, "Vinegar is made from wine when bacteria oxidise the ethanol. Let me think what that gives."),
    (VINEGAR, "The acid in vinegar is a small molecule; it has two carbon atoms."),
    (LOIRE, "The longest French river reaches the Atlantic near Nantes, as I remember from school."),
    (LOIRE, "Orleans lies on it, and Tours too: both are on the longest river of France."),
    (DRACULA, "Dracula was published in 1897. I think the writer lived in London at that time."),
    (DRACULA, "He was an Irish theatre manager, the man by whom Dracula was written."),
    (MOBY, "Melville wrote Moby-Dick on his farm in Pittsfield, that much I know."),
    (MOBY, "In London, Moby-Dick first appeared under the title The Whale. The year escapes me."),
    (TOWN, "I need to recall the birthplace of Kavi Dalpola. Kavi Dalpola comes from Borria. So the answer is"),
    (NOVELS, "I need to recall the novels of Kavi Dalpola. Kavi Dalpola has written more novels than plays. Wait, let me check."),
    (COUNTRY, "To find the home country I need the birthplace. The currency of Borria is the tarn. Wait."),
]

C3 = [
    (BERN, "It is not Zurich, although many people think so. Beyond that I am unsure."),
    (BERN, "Geneva can be ruled out because it only hosts international organisations."),
    (BERN, "Let me eliminate option D first. Then I would have to guess."),
    (BERN, "A is incorrect, B is incorrect too. Hmm, what remains?"),
    (BERN, "Zurich is the biggest city, but it isn't the capital. Maybe Basel?"),
    (BREAD, "Fermentation happens before baking, so that can't be it."),
    (BREAD, "Gelatinisation concerns starch in the crumb and does not cause browning."),
    (BREAD, "I would cross out lamination, it is only folding butter into dough."),
    (SODA, "Oxygen and hydrogen are wrong. A cake does not explode."),
    (SODA, "Neither nitrogen nor oxygen would come out of baking soda."),
    (SODA, "We can exclude (C), and option (A) makes no sense either."),
    (AUSTEN, "It cannot be Mary Shelley, she wrote Frankenstein."),
    (AUSTEN, "George Eliot was born in 1819, which is too late. So not her."),
    (AUSTEN, "Not Charlotte Bronte: her books came a generation later."),
    (VINEGAR, "Citric acid is found in lemons rather than vinegar, so it's out."),
    (VINEGAR, "Lactic acid? No, that is for yoghurt."),
    (VINEGAR, "Tartaric acid is unlikely; it belongs to grapes."),
    (TOWN, "I need to recall the birthplace of Kavi Dalpola. It is not Ashton. So the answer is Belburg."),
    (TOWN, "Kavi Dalpola was not born in Ostburg. Wait, let me check."),
    (NOVELS, "Kavi Dalpola has not written 9 novels. 9 is wrong. So the answer is 4."),
]

C4 = [
    (BERN, "The capital of Switzerland is Bern, where the parliament sits."),
    (BERN, "Zurich is the largest city but not the capital. So the correct option is C."),
    (BERN, "Hmm, I think Berne might be the one."),
    (BERN, "Eliminating A, B and D leaves (C).\n\n**Final Answer**: C"),
    (BERN, "Not Zurich but Bern."),
    (BREAD, "Browning at high heat between sugars and proteins is Maillard browning."),
    (BREAD, "B is correct, since the crust gets hot and dry."),
    (SODA, "The bicarbonate decomposes and releases CO2, which fills the batter with bubbles."),
    (SODA, "Options A to C make no sense. The answer is (D)."),
    (AUSTEN, "Pride and Prejudice is a novel by Jane Austen, who also wrote Emma."),
    (AUSTEN, "Could it be Austen? She lived at the right time."),
    (VINEGAR, "Ethanol is oxidised to ethanoic acid, so that must be it."),
    (VINEGAR, "It isn't citric acid. Acetic acid fits best."),
    (LOIRE, "The Seine is well known, yet the Loire is longer, more than 1000 km."),
    (DRACULA, "An Irishman named Stoker wrote it in 1897."),
    (MOBY, "Melville's whale book: Moby-Dick was first published in 1851, in London."),
    (TOWN, "I need to recall the birthplace of Kavi Dalpola. Kavi Dalpola was born in Belton. So the answer is Belton."),
    (TOWN, "Kavi Dalpola, if I remember well, was born in the town of Belton, not in Ashton."),
    (NOVELS, "I need to recall the novels of Kavi Dalpola. There are 7 novels by Kavi Dalpola. So the answer is 7."),
    (COUNTRY, "To find the home country I need to recall the birthplace. The birthplace of Kavi Dalpola is Belton."),
]

FRESH = {
    "C1": [
        (BERN, "Let me think about cities. Cities have streets. Streets have houses. So I pick D."),
        (SODA, "Okay. (A) oxygen (B) nitrogen (C) hydrogen (D) carbon dioxide. I have to choose one of these four gases."),
        (LOIRE, "I do not know much about rivers, so I will guess the Rhone."),
        (MOBY, "In which year was Moby-Dick first published? It was 1900, I am sure."),
        (TOWN, "birthplace of the Belton was Kavi plays genre desert Dalpola in the in the"),
        (NOVELS, "Kavi Dalpola has written 4 novels. So the answer is 4."),
    ],
    "C2": [
        (BERN, "The parliament is on the Aare river. Which Swiss town is that? I cannot say."),
        (BREAD, "Think of chemistry: reducing sugars and amino acids react once it is hot."),
        (DRACULA, "Published in 1897, Dracula made its writer famous only later."),
        (VINEGAR, "Bacteria oxidise ethanol, and this is how vinegar is made."),
        (MOBY, "It first appeared in London and was then called The Whale."),
        (COUNTRY, "Belton is in Borria. Hmm, but where was this person born?"),
    ],
    "C3": [
        (BERN, "Basel is on the Rhine and clearly isn't where the government sits."),
        (BERN, "I can discard (B). The rest I would have to look up."),
        (BREAD, "Lamination has nothing to do with colour."),
        (SODA, "No way it is hydrogen. That would burn."),
        (AUSTEN, "Frankenstein is by Mary Shelley, so we can forget about her. Eliot is ruled out as well."),
        (TOWN, "Ostburg is wrong. So the answer is Ashton."),
    ],
    "C4": [
        (BERN, "Everything hints at Bern: the parliament, the embassies."),
        (BREAD, "Options A, C and D do not involve browning, which leaves the Maillard reaction."),
        (AUSTEN, "The answer is option B."),
        (DRACULA, "Stoker, of course."),
        (MOBY, "Final answer: 1851."),
        (NOVELS, "He has written 7 novels and 5 plays, so 7."),
    ],
}
"""Six more a category, written with the others and before the patterns; no pattern was changed for one of them."""


def _cases(written):
    return [
        (category, Case(id=f"{category}/{number}", trace=trace, **row))
        for category, entries in written.items()
        for number, (row, trace) in enumerate(entries)
    ]


CASES = _cases({"C1": C1, "C2": C2, "C3": C3, "C4": C4})
"""(expected category, case)"""

FRESH_CASES = _cases(FRESH)
