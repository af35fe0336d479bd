package org.lastmile.app

import android.view.MotionEvent
import android.widget.Button
import org.junit.Assert.assertEquals
import org.junit.Test

/** What fingers, other apps' pictures and broken models do to the first page. */
class TryTest : OnScreen() {
    private fun DrawView.touched(
        action: Int,
        x: Float,
        y: Float
    ) = dispatchTouchEvent(MotionEvent.obtain(0, 0, action, x * width, y * height, 0))

    private fun MainActivity.drawing() = findViewById<DrawView>(R.id.drawing)

    private fun MainActivity.clear() = findViewById<Button>(R.id.clear).performClick()

    @Test
    fun aStrokeThatIsClearedUnderTheFingerBeginsAnew() {
        val activity = start().get()
        val drawing = activity.drawing()
        drawing.touched(MotionEvent.ACTION_DOWN, 0.5f, 0.25f)
        activity.clear()
        drawing.touched(MotionEvent.ACTION_MOVE, 0.5f, 0.5f)
        drawing.touched(MotionEvent.ACTION_MOVE, 0.5f, 0.75f)
        assertEquals(listOf(listOf(0.5f, 0.5f, 0.5f, 0.75f)), drawing.strokes)
    }

    @Test
    fun aStrokeThatTheSystemTakesAwayIsNone() {
        val drawing = start().get().drawing()
        drawing.strokes = listOf(listOf(0.5f, 0.1f, 0.5f, 0.9f))
        drawing.touched(MotionEvent.ACTION_DOWN, 0f, 0.5f)
        drawing.touched(MotionEvent.ACTION_MOVE, 0.25f, 0.5f)
        drawing.touched(MotionEvent.ACTION_CANCEL, 0.25f, 0.5f)
        assertEquals(listOf(listOf(0.5f, 0.1f, 0.5f, 0.9f)), drawing.strokes)
    }
}
