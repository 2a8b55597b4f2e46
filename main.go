// Command croft runs whole Linux machines in containers, without a daemon.
package main

func main() {}
