"""Text for the parity check: prose, numbers, a list, code and several scripts, for many kinds of token."""

from __future__ import annotations

PARITY_TEXTS = (
    """A lighthouse keeper's log from a cold coast reads like a slow conversation with the weather. On Monday the wind
turned north before noon and the glass fell by eleven points; two herring boats came in early and a third, the
Margaret, was not seen until dusk. On Tuesday there was fog. The keeper wound the clockwork every four hours, trimmed
the wick twice, and noted that the supply of oil would last nineteen days, or perhaps twenty-one if the nights stayed
clear. Ships do not see the keeper, but they count the seconds between two flashes and know by that number which rock
they are passing. A light that turns too slowly is therefore worse than no light at all: it names another place.

When the station was rebuilt in 1894, the new lens weighed 2.3 tonnes and floated in a trough of mercury, so that a
child could have set it turning with one finger. The engineers measured its range as 18 nautical miles in clear air,
and promised the ministry a saving of 35% in fuel. The keeper, who had not been asked, wrote that the new machine was
handsome, that it was quieter than the old one, and that he missed the noise. For some weeks he woke at the hours at
which he would have had to wind the clock. Then he slept through, and his handwriting in the log became steadier.

What happened to the log itself is less certain. Part of it was copied by a schoolteacher, who corrected the spelling;
part was used to light stoves. The surviving pages are kept in a flat box in the county archive, between a register of
dog licences and the minutes of a society for the improvement of roads. Anyone may ask to see them. Few people do, and
those who do are mostly looking for the name of a ship, or of a man who was lost, and close the box again when they
have found it. The weather, which fills nearly every line, is read by nobody.
""",
    """How do you keep a shared kitchen in order? Write down what everybody already believes, then see where the
sentences disagree. Ours began with five rules:
1. Whoever cooks does not wash up.
2. A pan that soaks overnight belongs to the person who left it there.
3. Bread is common property; cheese is not.
4. The compost goes out on Wednesdays and Saturdays, before 7:30.
5. No rule is valid until everyone has broken it once.

The third rule failed first. Somebody baked, somebody else bought, and it turned out that a loaf costs 0.85 in flour
but 4.20 at the corner shop. We made a small table, added the columns, and divided by the number of people at home on
that day. A program of six lines did the sums:

def share(costs, days):
    total = sum(costs.values())
    everyone = sum(days.values())
    return {name: total * days[name] / everyone - costs.get(name, 0.0) for name in days}

print(share({"Ada": 12.5, "Ben": 3.0}, {"Ada": 7, "Ben": 4, "Chloe": 5}))

Nobody argued with the program, although it was wrong for a month: guests were not counted. In the end the guests
counted themselves, on a sheet of paper with a drawing of a whale on it, and the differences became too small to
discuss. Visitors left greetings there in their own languages: "Guten Appetit und bis zum nächsten Mal", "merci pour la
soupe à l'oignon", "спасибо за чай", "とてもおいしかった", "شكرا جزيلا", and once only a drawn face 🙂 and a date.

There is a moral in this, if you like morals. Rules that describe what people do are cheap, and rules that change what
people do are dear; a table, a pencil on a string and a number that everybody can check will often do the work of a
rule for nothing. But the pan that soaks overnight is still there in the morning, x² + y² = r² still draws its greasy
circle on the water, and whose pan it is can be settled by no table. It is always somebody else's.
""",
)
