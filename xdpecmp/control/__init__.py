"""What changes things on this host when somebody asks for it.

Here live attaching and detaching, interfaces and their programs, weights and who owns them,
cleaning up after what is gone, and advice: sentences about a snapshot. What only shows belongs to
`observe`; wording of a command line belongs to `cli`.
"""
