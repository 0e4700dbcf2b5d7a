"""The versions that are loaded: the one that is served, and the one before it.

Another version is looked for now and then. It takes over once it is verified and has answered its
golden requests; one that does not is refused, said so once, and the served one goes on. A folder
that was refused, as while it is being copied, is opened again once any of its files is another.
"""

import asyncio
import logging
from pathlib import Path

from deeprec import versions
from deeprec.server.measured import Measured
from deeprec.server.opened import Contents, Opened, contents, fingerprint, open_version

LOG = logging.getLogger("deeprec")


class Held:
    """What requests are answered from.

    Args:
        path: a bundle, or a folder of versions.
        name: what the model is called; None: as its folder.
        device: where models answer.
        measured: where versions are counted.

    Raises:
        ConfigError: there is no bundle.
        IntegrityError: it is damaged or answers otherwise than it must.
    """

    def __init__(self, path: Path, name: str | None, device: str, measured: Measured) -> None:
        self._path, self._name, self._device = path, name, device
        self._measured = measured
        served = versions.current(path)
        self._serving = fingerprint(served)
        self._refused: Contents | None = None
        self._looked_at: Contents | None = None
        self._said = ""  # of what is not served, last
        self.served = open_version(served, name, device)
        self.loaded = {self.served.version: self.served}
        self._tell()

    def version(self, number: str | None) -> Opened | None:
        """A loaded version; None: the served one."""
        return self.served if number is None else self.loaded.get(number)

    async def watch(self, seconds: float) -> None:
        """Looks for another version for as long as it runs."""
        while True:
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self.look)

    def look(self) -> bool:
        """Takes up another version, if there is one; says whether it did."""
        try:
            path = versions.current(self._path)
            found, there = fingerprint(path), contents(path)
        except Exception as error:  # whatever stands there, the served one goes on
            self._say(logging.WARNING, f"still serving version {self.served.version}: {error}")
            return False
        if found == self._serving or not self._is_due(there):
            return False
        try:
            opened = open_version(path, self._name, self._device)
        except Exception as error:
            self._refused = there
            self._say(
                logging.ERROR,
                f"refused {path}, still serving version {self.served.version}: {error}",
            )
            self._measured.reloads.labels("refused").inc()
            return False
        self._serving, self._refused, self._said = found, None, ""
        before, self.served = self.served, opened
        self.loaded = {before.version: before, opened.version: opened}
        self._measured.reloads.labels("taken up").inc()
        self._tell()
        LOG.warning("serving version %s (%s)", opened.version, opened.identity[:12])
        return True

    def _is_due(self, there: Contents) -> bool:
        """Whether a folder is opened: at its first look, or changed since it was refused.

        Then it must be the same at two looks, so that no copy is read over and over under way.
        """
        stays, self._looked_at = there == self._looked_at, there
        if self._refused is None or self._refused.path != there.path:
            return True
        return stays and there != self._refused

    def _say(self, level: int, message: str) -> None:
        """Logs what was not the last to be said."""
        if message != self._said:
            LOG.log(level, message)
        self._said = message

    def _tell(self) -> None:
        gauge = self._measured.version
        gauge.clear()
        gauge.labels(self.served.name, self.served.version, self.served.identity).set(1)
