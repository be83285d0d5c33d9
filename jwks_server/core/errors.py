"""Every expected failure, in one family: each text says what is wrong and what the operator can do."""


class JwksServerError(Exception):
    """The base of all failures that are somebody's input and not our bug."""


class TenantNameError(JwksServerError):
    """A name that is no tenant domain."""


class KeyFileError(JwksServerError):
    """A file whose keys cannot be read: nothing of its present content can be used."""


class PrivateKeyOnlyError(KeyFileError):
    """A file that holds a private key and nothing public: no fault of a file that never gave a key."""


class UnsupportedKeyError(JwksServerError):
    """One key that was understood and is not published; others of its file may be."""


class PolicyError(JwksServerError):
    """A policy value that is not among the allowed ones."""


class SettingsError(JwksServerError):
    """A setting of the server that it cannot start with."""


class RootUnavailableError(JwksServerError):
    """The tree of keystores itself cannot be read: says nothing about any tenant in it."""


class ReaderError(JwksServerError):
    """A reader process failed, which says nothing about the files; what the tenant publishes stays."""


class SealedError(JwksServerError):
    """Bytes that are no sealed snapshot of this version: what was known of the tenant before is lost."""


class KeySetError(JwksServerError):
    """Bytes that were to be published and are no key set of public members alone."""
