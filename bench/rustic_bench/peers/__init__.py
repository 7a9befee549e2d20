"""Those who are measured: each module is a program that measures one of them and prints its rows as JSON."""
