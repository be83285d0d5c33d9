"""What a key set is, as pure computation: no input or output, no asyncio, no logging, no clock.

Bytes and times come in as arguments, values and the errors of `errors` come out. The values of `formats` hold objects
of the cryptography library; all others are plain data, which can be sent from one process to another.
"""
