package cli

import "math/rand/v2"

// madeUpName is a readable name: 64 x 64 pairs and a number, so that a clash is rare; Create notices one.
func madeUpName() string {
	first := [...]string{
		"amber", "ample", "aspen", "azure", "balmy", "brave", "brisk", "calm", "clear", "clever", "cosy", "crisp",
		"dapper", "deft", "eager", "early", "fair", "fleet", "fond", "fresh", "gentle", "glad", "golden", "grand",
		"green", "happy", "hardy", "hazel", "honest", "jolly", "keen", "kind", "lively", "lucid", "lucky", "mellow",
		"merry", "mild", "misty", "neat", "nimble", "noble", "olive", "placid", "plain", "plucky", "prime", "proud",
		"quick", "quiet", "rapid", "rosy", "sandy", "serene", "silver", "snug", "spry", "steady", "sunny", "swift",
		"tidy", "vivid", "warm", "witty",
	}
	second := [...]string{
		"acre", "alder", "ash", "badger", "barley", "barn", "beech", "birch", "bramble", "brook", "burn", "byre",
		"clover", "copse", "crane", "croft", "dale", "dell", "dove", "elm", "ewe", "falcon", "fallow", "farm",
		"fern", "field", "finch", "fold", "ford", "furrow", "garth", "glebe", "glen", "grove", "hare", "hazel",
		"heath", "hedge", "heron", "holm", "lamb", "larch", "lark", "lea", "linnet", "loam", "meadow", "moor",
		"oak", "orchard", "otter", "paddock", "plover", "rill", "robin", "rowan", "rye", "sorrel", "stile", "thorn",
		"vale", "wharf", "willow", "wren",
	}
	return first[rand.IntN(len(first))] + "-" + second[rand.IntN(len(second))]
}
