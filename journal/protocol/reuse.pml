/* reuse.pml - writes that go out once, and when a place may be written again (I2, P3).
 *
 * One block, PLACES places for it: its home and spare slots. A change writes its bytes to a free
 * place, and then appends a record that names place and change. The place it gives up is in
 * quarantine until the log itself says that the record is durable. A trim gives up its place
 * and takes none. A flush appends a barrier that carries the durable mark as it was known
 * before, and makes log and places durable. The power may go at any step: recovery takes
 * the log up to its first hole; what lies beyond every durable mark that it found it checks
 * against the places, and cuts before the first record whose bytes are not there. It must find
 * a change that was made, none older than the last answered flush, and its bytes.
 *
 * Each of these macros breaks it, and the checker must find that:
 *
 *   REUSE_AT_ONCE    a place is free as soon as it is given up
 *   REUSE_DURABLE    a place is free when the record is durable, before the log says so
 *   NO_PLACE_FLUSH   a flush covers the log alone
 *   NO_CHECK         recovery takes the bytes for there
 *   RECORD_FIRST     the record is appended before the bytes are written
 */

#define PLACES 2
#define LAST 3    /* changes in one run */
#define ROOM 6    /* records in the log: changes and barriers */
#define NONE 255  /* no place: trimmed */

byte placeCached[PLACES], placeMedium[PLACES]; /* the change whose bytes they hold */
byte recVersion[ROOM], recPlace[ROOM], recMark[ROOM]; /* the log; a barrier names no new change */
bool recMedium[ROOM];
byte head;
byte version, promised;
byte durable, recorded; /* log positions: durable; and what a durable record says of that */
byte at = NONE;         /* where the block's bytes are */
byte heldFor[PLACES];   /* 1 + position of the record that gave the place up; 0: not held */

#define isFree(p) (p != at && heldFor[p] == 0)

inline release(upTo) {
	d_step {
		byte i = 0;
		do
		:: i < PLACES ->
			if
			:: heldFor[i] != 0 && heldFor[i] <= upTo -> heldFor[i] = 0
			:: else
			fi;
			i++
		:: else -> break
		od;
		i = 0
	}
}

/* The record of a change: its place in the order, and the new map, in one step. */
inline append(p) {
	d_step {
		version++;
		recVersion[head] = version;
		recPlace[head] = p;
		recMark[head] = durable;
		head++;
#ifndef REUSE_AT_ONCE
		if
		:: at != NONE -> heldFor[at] = head
		:: else
		fi;
#endif
		at = p
	}
}

active proctype Client() {
	byte p;
	do
	:: version < LAST && head < ROOM - 1 ->
		if
		:: isFree(0) -> p = 0
		:: isFree(1) -> p = 1
		:: p = NONE /* a trim */
		fi;
#ifdef RECORD_FIRST
		append(p);
		if
		:: p != NONE -> placeCached[p] = version
		:: else
		fi;
#else
		if
		:: p != NONE -> placeCached[p] = version + 1
		:: else
		fi;
		append(p);
#endif
		p = 0
	:: else -> break
	od
}

active proctype Flusher() {
	byte upTo, covers, mark;
	do
	:: head < ROOM - 1 -> /* the last one is the Client's */
		d_step {
			recVersion[head] = version;
			recPlace[head] = at;
			recMark[head] = durable;
			mark = durable;
			head++;
			upTo = head;
			covers = version
		}
		d_step {
			byte i = 0;
			do
			:: i < upTo -> recMedium[i] = true; i++
			:: else -> break
			od;
			i = 0;
#ifndef NO_PLACE_FLUSH
			do
			:: i < PLACES -> placeMedium[i] = placeCached[i]; i++
			:: else -> break
			od;
#endif
			i = 0
		}
		d_step {
			durable = (upTo > durable -> upTo : durable);
			recorded = (mark > recorded -> mark : recorded);
			promised = (covers > promised -> covers : promised);
			upTo = 0;
			covers = 0;
			mark = 0
		}
#ifdef REUSE_DURABLE
		release(durable)
#else
		release(recorded)
#endif
	:: else -> break
	od
}

active proctype WriteBack() {
	do
	:: placeMedium[0] != placeCached[0] -> placeMedium[0] = placeCached[0]
	:: placeMedium[1] != placeCached[1] -> placeMedium[1] = placeCached[1]
	:: head > 0 && !recMedium[head - 1] -> recMedium[head - 1] = true
	:: head > 1 && !recMedium[head - 2] -> recMedium[head - 2] = true
	:: timeout -> break
	od
}

active proctype Power() {
	byte end, mark, i, found, place;
	d_step {
		place = NONE;
		do
		:: end < head && recMedium[end] ->
			mark = (recMark[end] > mark -> recMark[end] : mark);
			end++
		:: else -> break
		od;
		do
		:: i < end ->
#ifndef NO_CHECK
			if
			:: i >= mark && recPlace[i] != NONE && (i == 0 || recVersion[i] != recVersion[i - 1]) &&
			   placeMedium[recPlace[i]] != recVersion[i] -> break
			:: else
			fi;
#endif
			found = recVersion[i];
			place = recPlace[i];
			i++
		:: else -> break
		od;
		assert(found >= promised);                               /* P3 */
		assert(place == NONE || placeMedium[place] == found)     /* P4: its very bytes */
	}
}
