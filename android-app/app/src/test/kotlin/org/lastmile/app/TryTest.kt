package org.lastmile.app

import android.content.ContentProvider
import android.content.ContentValues
import android.content.Intent
import android.net.Uri
import android.os.Looper
import android.view.MotionEvent
import android.widget.Button
import java.util.concurrent.ExecutorService
import org.junit.Assert.assertEquals
import org.junit.Test
import org.lastmile.inference.Score
import org.robolectric.Robolectric
import org.robolectric.Shadows.shadowOf

/** Touch input and shared images on the first page. */
class TryTest : ScreenTestBase() {
    private fun DrawView.touch(
        action: Int,
        x: Float,
        y: Float
    ) = dispatchTouchEvent(MotionEvent.obtain(0, 0, action, x * width, y * height, 0))

    private fun MainActivity.drawing() = findViewById<DrawView>(R.id.drawing)

    private fun MainActivity.clear() = findViewById<Button>(R.id.clear).performClick()

    @Test
    fun aStrokeClearedWhileTheFingerIsDownStartsAgain() {
        val activity = start().get()
        val drawing = activity.drawing()
        drawing.touch(MotionEvent.ACTION_DOWN, 0.5f, 0.25f)
        activity.clear()
        drawing.touch(MotionEvent.ACTION_MOVE, 0.5f, 0.5f)
        drawing.touch(MotionEvent.ACTION_MOVE, 0.5f, 0.75f)
        assertEquals(listOf(listOf(0.5f, 0.5f, 0.5f, 0.75f)), drawing.strokes)
    }

    @Test
    fun aCanceledStrokeIsRemoved() {
        val drawing = start().get().drawing()
        drawing.strokes = listOf(listOf(0.5f, 0.1f, 0.5f, 0.9f))
        drawing.touch(MotionEvent.ACTION_DOWN, 0f, 0.5f)
        drawing.touch(MotionEvent.ACTION_MOVE, 0.25f, 0.5f)
        drawing.touch(MotionEvent.ACTION_CANCEL, 0.25f, 0.5f)
        assertEquals(listOf(listOf(0.5f, 0.1f, 0.5f, 0.9f)), drawing.strokes)
    }

    /** Waits until the page's worker is idle. Tasks that it posted to the UI thread have not run yet. */
    private fun MainActivity.awaitWorker() = (field(field(this, "page")!!, "worker") as ExecutorService).submit {}.get()

    private fun field(
        of: Any,
        name: String
    ): Any? = of.javaClass.getDeclaredField(name).also { it.isAccessible = true }.get(of)

    @Test
    fun thePredictionForAClearedDrawingIsNotShown() {
        val activity = start().get()
        activity.drawing().strokes = listOf(listOf(0.5f, 0.1f, 0.5f, 0.9f))
        activity.drawing().performClick()
        activity.awaitWorker()
        activity.clear()
        shadowOf(Looper.getMainLooper()).idle()
        assertEquals("", activity.text(R.id.verdict))
        assertEquals(emptyList<Score>(), activity.findViewById<BarsView>(R.id.first_bars).scores)
    }

    @Test
    fun anImageThatAnotherAppDoesNotAllowToReadIsReported() {
        Robolectric.setupContentProvider(Refusing::class.java, "refusing")
        val intent = Intent(Intent.ACTION_SEND).setType("image/png").putExtra(Intent.EXTRA_STREAM, Uri.parse("content://refusing/1"))
        val activity = start(intent = intent).get()
        wait { activity.text(R.id.first_times).isNotEmpty() }
        assertEquals(activity.getString(R.string.failed, "Permission Denial: not yours"), activity.text(R.id.first_times))
        assertEquals("", activity.text(R.id.verdict))
    }

    class Refusing : ContentProvider() {
        override fun onCreate() = true

        override fun openFile(
            uri: Uri,
            mode: String
        ) = throw SecurityException("Permission Denial: not yours")

        override fun getType(uri: Uri) = "image/png"

        override fun query(
            uri: Uri,
            projection: Array<String>?,
            selection: String?,
            arguments: Array<String>?,
            order: String?
        ) = null

        override fun insert(
            uri: Uri,
            values: ContentValues?
        ) = null

        override fun delete(
            uri: Uri,
            selection: String?,
            arguments: Array<String>?
        ) = 0

        override fun update(
            uri: Uri,
            values: ContentValues?,
            selection: String?,
            arguments: Array<String>?
        ) = 0
    }
}
