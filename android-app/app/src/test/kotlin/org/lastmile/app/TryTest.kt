package org.lastmile.app

import android.os.Looper
import android.view.MotionEvent
import android.widget.Button
import java.util.concurrent.ExecutorService
import org.junit.Assert.assertEquals
import org.junit.Test
import org.lastmile.inference.Score
import org.robolectric.Shadows.shadowOf

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

    /** Waits until the page's worker has done all that it was given; what that posted to the screen waits. */
    private fun MainActivity.worked() = (own(own(this, "page")!!, "worker") as ExecutorService).submit {}.get()

    private fun own(
        of: Any,
        name: String
    ): Any? = of.javaClass.getDeclaredField(name).also { it.isAccessible = true }.get(of)

    @Test
    fun anAnswerToWhatIsClearedIsNotShown() {
        val activity = start().get()
        activity.drawing().strokes = listOf(listOf(0.5f, 0.1f, 0.5f, 0.9f))
        activity.drawing().performClick()
        activity.worked()
        activity.clear()
        shadowOf(Looper.getMainLooper()).idle()
        assertEquals("", activity.text(R.id.verdict))
        assertEquals(emptyList<Score>(), activity.findViewById<BarsView>(R.id.first_bars).scores)
    }
}
