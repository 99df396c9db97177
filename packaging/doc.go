// Package packaging holds what makes packages of jnbd: the Debian package's control files,
// systemd's units, the configuration that is shipped, and the recipe of the container image.
// scripts/release puts them together. The tests build a release and use what is in it.
package packaging
