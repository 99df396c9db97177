/* checkpoint.pml - commit, checkpoint and reuse of the log, for one block (I6, trap 6).
 *
 * The block's content is the number of its last change; a trim is a change like any other, and
 * punching is how it goes home. A change is one record of the log, which is a ring of RING
 * places. Every device has a cache and a medium; write-back may happen at any time, a flush
 * makes durable what was written before it was called. The power may go at any step: then a
 * recovery reads superblock, log and home as the media hold them. It must find a change that
 * was made, and none older than the last flush that was answered.
 *
 * The checkpointer is steps 1 to 6 of journal/checkpoint.go. Each of these macros breaks it,
 * and the checker must find that:
 *
 *   NO_HOME_FLUSH    the home is not flushed
 *   NO_PASSED_FLUSH  the newer version of what was passed over is not flushed
 *   TAIL_FIRST       the superblock is saved before the home is written
 *   NO_SUPER_FLUSH   the superblock is written, and not flushed
 *   FREE_FIRST       log space is given away before the superblock is saved
 *   FORGET_ANY       whatever owns the block is forgotten, also what came during the write
 *   EARLY_ANSWER     a flush is answered before the device's
 */

#define RING 3 /* places in the log */
#define LAST 4 /* changes in one run */

typedef record { byte pos; byte version } /* pos is one more than its position; 0: nothing */

record cached[RING], medium[RING]; /* the log */
byte homeCached, homeMedium;
byte tailCached, tailMedium; /* the superblock */

byte version;     /* changes made */
byte head, bound; /* log positions: behind the newest record; the oldest that is not free */
byte durable;     /* the log is durable up to here, by a flush that has returned */
byte promised;    /* the change that the last answered flush covers */
byte owner, ownerVersion; /* the overlay: 1 + position of the newest record that is not home */

inline flushLog(upTo) {
	d_step {
		byte i = 0;
		do
		:: i < RING ->
			if
			:: cached[i].pos != 0 && cached[i].pos <= upTo ->
				medium[i].pos = cached[i].pos;
				medium[i].version = cached[i].version
			:: else
			fi;
			i++
		:: else -> break
		od;
		i = 0;
		durable = (upTo > durable -> upTo : durable)
	}
}

/* A change gets its place in the log, and owns the block from then on. */
active proctype Client() {
	do
	:: atomic { version < LAST && head - bound < RING ->
		version++;
		cached[head % RING].pos = head + 1;
		cached[head % RING].version = version;
		head++;
		owner = head;
		ownerVersion = version }
	:: version == LAST -> break
	od
}

/* FLUSH: what was appended when it was called is durable when it is answered. */
active proctype Flusher() {
	byte upTo, covers;
	do
	:: atomic { upTo = head; covers = version }
#ifdef EARLY_ANSWER
		promised = (covers > promised -> covers : promised);
#endif
		flushLog(upTo);
		promised = (covers > promised -> covers : promised);
		d_step { upTo = 0; covers = 0 }
	:: version == LAST && promised == LAST -> break
	od
}

inline saveTail() {
	tailCached = tail;
#ifndef NO_SUPER_FLUSH
	tailMedium = tailCached
#endif
}

active proctype Checkpointer() {
	byte tail, upTo;
	do
	:: bound == LAST -> break
	::
		/* 1: the new tail */
		atomic { durable > bound -> tail = durable };
#ifdef TAIL_FIRST
		saveTail();
#endif
		/* 2 and 3: home, and flushed */
		if
		:: atomic { owner != 0 && owner <= tail -> homeCached = ownerVersion }
		:: else
		fi;
#ifndef NO_HOME_FLUSH
		homeMedium = homeCached;
#endif
		/* 4: forgotten; what was passed over must not be lost with what it replaced */
		d_step {
			if
#ifdef FORGET_ANY
			:: owner != 0 -> owner = 0; ownerVersion = 0
#else
			:: owner != 0 && owner <= tail -> owner = 0; ownerVersion = 0
#endif
			:: else
			fi
		}
#ifndef NO_PASSED_FLUSH
		upTo = head;
		flushLog(upTo);
#endif
#ifdef FREE_FIRST
		bound = tail;
#endif
		/* 5 and 6 */
#ifndef TAIL_FIRST
		saveTail();
#endif
		bound = tail;
		d_step { tail = 0; upTo = 0 }
	od
}

/* The kernel writes back whatever it likes, whenever it likes. */
active proctype WriteBack() {
	byte i;
	do
	:: homeMedium != homeCached -> homeMedium = homeCached
	:: tailMedium != tailCached -> tailMedium = tailCached
	:: d_step { medium[0].pos != cached[0].pos -> medium[0].pos = cached[0].pos; medium[0].version = cached[0].version }
	:: d_step { medium[1].pos != cached[1].pos -> medium[1].pos = cached[1].pos; medium[1].version = cached[1].version }
	:: d_step { medium[2].pos != cached[2].pos -> medium[2].pos = cached[2].pos; medium[2].version = cached[2].version }
	:: timeout -> break
	od
}

/* A read sees the newest change (I8). */
active proctype Reader() {
	d_step { assert((owner != 0 -> ownerVersion : homeCached) == version) }
}

/* The power goes, once, at any step, and a recovery looks at the media. */
active proctype Power() {
	byte at, found;
	d_step {
		at = tailMedium;
		found = homeMedium;
		do
		:: at < tailMedium + RING && medium[at % RING].pos == at + 1 ->
			found = medium[at % RING].version;
			at++
		:: else -> break
		od;
		assert(found >= promised); /* P3 */
		assert(found <= version)
	}
}
