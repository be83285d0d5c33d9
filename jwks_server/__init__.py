"""A JSON Web Key Set server: a tree of keystores in, key sets at WSO2 Identity Server's URLs out.

`core` computes and touches nothing outside itself; every other package does. `cli` parses arguments and exits. Imports
run cli → daemon → admin, commands → following, readers, serving, state → reading → host → core, never back.
"""
