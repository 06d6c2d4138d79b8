"""The subcommands of `acfun`, one file each; none imports a heavy library before it runs."""
