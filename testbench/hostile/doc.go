// Package hostile puts the real millrace process, with the memory it has by default, under everything a broken or bad
// client can do at both doors, while a few honest clients go on working. It has tests only.
package hostile
