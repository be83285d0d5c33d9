"""What a job is handed of the passwords outside the tree: read here, for no reader process can open their files.

They are read in a thread, for each job anew, and only where there are any.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from jwks_server.core.errors import ReaderError
from jwks_server.reading.jobs import LoadJob, SurveyJob
from jwks_server.reading.passwords import NOTHING, HandedPasswords, Passwords, PasswordSources
from jwks_server.reading.wire import Job


class PasswordHanding:
    """Reads the passwords for one job at a time, in a thread of its own; a disk that hangs holds no other thread up."""

    def __init__(self, passwords: Passwords, seconds: float) -> None:
        self._passwords = passwords
        self._seconds = seconds
        self._thread = ThreadPoolExecutor(1, "passwords")
        self._are_there = not isinstance(passwords, PasswordSources) or bool(passwords)

    async def for_job(self, job: Job) -> HandedPasswords:
        """Return what the job is handed; raise ReaderError where the files do not answer in time."""
        if not self._are_there or not isinstance(job, LoadJob | SurveyJob):
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
            return HandedPasswords(marks={tenant: self._passwords.mark(tenant) for tenant in job.tenants})
        return HandedPasswords(self._passwords.outside(job.tenant))
