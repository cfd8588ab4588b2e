"""What the objects of a clip are, as the numbered categories of a dataset."""

from collections.abc import Mapping

from stmcli.errors import UsageError

UNNAMED = "object"


class Categories:
    """Number the names of objects from 1, in the order of their ids; objects without a name come last."""

    def __init__(self, names: Mapping[int, str]) -> None:
        wrong = [name for name in names.values() if not name.strip() or not name.isprintable()]
        if wrong:
            raise UsageError(f"{wrong[0]!r} cannot be the name of a category", hint="Use letters that can be seen.")
        self._names = {number: names[number].strip() for number in sorted(names)}
        self._numbers = {name: place for place, name in enumerate(dict.fromkeys([*self._names.values(), UNNAMED]), 1)}
        self._used = set(self._names.values())
        self._unseen = {*names}

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, object_id: int) -> int:
        """Return the category of an object."""
        self._unseen.discard(object_id)
        name = self._names.get(object_id, UNNAMED)
        self._used.add(name)
        return self._numbers[name]

    def notes(self) -> list[str]:
        """Return what is odd: names of objects that there are not."""
        return [
            f"--category {number}={self._names[number]}: there was no object {number}"
            for number in sorted(self._unseen)
        ]

    def numbered(self) -> dict[int, str]:
        """Return the name of every category that was given, or that an object had so far."""
        return {number: name for name, number in self._numbers.items() if name in self._used}
