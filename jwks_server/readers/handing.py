"""What a job is handed of the passwords outside the tree: read here, for no reader process can open their files.

They are read in a thread, for each job anew, and only where there are any.
"""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor

from jwks_server.core.errors import ReaderError
from jwks_server.reading.files import file_facts
from jwks_server.reading.jobs import LoadJob, SurveyJob
from jwks_server.reading.passwords import NOTHING, HandedPasswords, PasswordSources
from jwks_server.reading.tree import FRESH_SECONDS
from jwks_server.reading.wire import Job


class PasswordHanding:
    """Reads the passwords for one job at a time, in a thread of its own; a disk that hangs holds no other thread up."""

    def __init__(self, passwords: PasswordSources, seconds: float) -> None:
        self._passwords = passwords
        self._seconds = seconds
        self._thread = ThreadPoolExecutor(1, "passwords")
        self._names: tuple[object, frozenset[str] | None] = ((), None)

    async def for_job(self, job: Job) -> HandedPasswords:
        """Return what the job is handed; raise ReaderError where the files do not answer in time."""
        if not self._passwords or not isinstance(job, LoadJob | SurveyJob):
            return NOTHING
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, job)
        except TimeoutError:
            raise ReaderError(f"reading its password took more than {self._seconds:g} seconds") from None

    def close(self) -> None:
        """Begin no more reading."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _read(self, job: LoadJob | SurveyJob) -> HandedPasswords:
        if isinstance(job, SurveyJob):
            return HandedPasswords(marks=self._passwords.marks(job.tenants, self._known_names()))
        return HandedPasswords(self._passwords.outside(job.tenant))

    def _known_names(self) -> frozenset[str] | None:
        """Return the names in the directory, listed once for each of its states; None where they are not known.

        A look at each of 50,000 tenants' files takes a second of a processor, and most have none.
        """
        directory = self._passwords.directory
        if directory is None:
            return frozenset()
        state = file_facts(directory)
        if state != self._names[0] or self._names[1] is None:
            try:
                names, age = frozenset(os.listdir(directory)), time.time_ns() - os.stat(directory).st_mtime_ns
            except OSError:
                return None
            # One that has just changed may change again within the same tick of its file system's clock.
            self._names = (state, names) if age > FRESH_SECONDS * 1e9 else ((), None)
            return names
        return self._names[1]
