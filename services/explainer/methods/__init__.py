"""The methods: from the values of coalitions, or from the graph of a model, to attributions. Which one: `choose`."""
