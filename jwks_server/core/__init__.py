"""What a key set is, as pure computation: no input or output, no asyncio, no logging, no clock.

Bytes and times come in as arguments, values and the errors of `errors` come out. Everything here may run in any
process or thread, and every value can be sent from one to another.
"""
